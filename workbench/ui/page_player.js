const root = element.querySelector("[data-player]");

mountPlayer(root, {
  data: props.value,
  address: data => Promise.resolve(`${window.gradio_config?.root ?? ""}/gradio_api/file=${data.video}`),
  report(shown) {
    root.shown = shown;
    trigger("shown", shown);
  },
  watch: callback => watch("value", () => callback({data: props.value})),
});
