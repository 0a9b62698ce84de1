export default {
  render({model, el}) {
    const root = make("div"), file = filesOf(model);
    el.append(root);
    return mountPlayer(root, {
      data: model.get("data"),
      address: data => file({video: data.video}),
      report(shown) {
        model.set("shown", shown);
        model.save_changes();
      },
      watch(callback) {
        model.on("change:data", () => callback({data: model.get("data")}));
        model.on("change:shown", () => callback({frame: model.get("shown").frame}));
      },
    });
  },
};
