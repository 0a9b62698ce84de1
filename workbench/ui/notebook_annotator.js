export default {
  render({model, el}) {
    const root = make("div"), file = filesOf(model);
    let sent = null;
    el.append(root);
    return mountAnnotator(root, {
      task: model.get("task"),
      get: () => model.get("value"),
      set(value) {
        sent = JSON.stringify(value);
        model.set("value", value);
        model.save_changes();
      },
      watch: callback => model.on("change:value", () => {
        const value = model.get("value");
        if (JSON.stringify(value) !== sent) callback(value);
      }),
      ask(request) {
        model.set("request", request);
        model.save_changes();
      },
      picture: (id, isSmall) => file({picture: id, is_small: isSmall}),
      notes: callback => model.on("change:note", () => callback(model.get("note"))),
    });
  },
};
