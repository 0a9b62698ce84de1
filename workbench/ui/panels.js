// What stands around the picture: the strip of pictures, the tools, the phrases, the pair that is worked on, and the
// line at the foot. Everything is drawn anew from the state; `desk` says what there is and takes what is pressed.

const TOOLS = [
  ["select", "Select", "V", "Select, move and resize; drag beside a mark to move the picture"],
  ["box", "Box", "B", "Draw a box around one object"],
  ["click", "Click", "C", "Click on an object, or beside it with the sign −"],
  ["paint", "Paint", "M", "Paint a mask; with the sign − rub out"],
];
const KEYS = [
  ["V B C M", "tool: select, box, click, paint"], ["X", "sign + or −"], ["1 – 9", "phrase"],
  [", .", "picture before, next"], ["Y N U", "present, absent, not checked"], ["E", "all of them are marked"],
  ["A R", "accept, reject a proposal"], ["F O", "find more, outline"], ["Tab", "next mark"],
  ["Delete", "remove the mark"], ["Arrows", "move it (Shift: far)"],
  ["Ctrl+Arrows", "make the box larger, smaller"], ["Enter", "a box or click in the middle"], ["Esc", "select nothing"],
  ["Ctrl+Z", "undo; with Shift redo"], ["+ − 0", "zoom; the whole picture"], ["Wheel", "or two fingers: zoom"],
  ["Space", "or middle button: move the picture"], ["[ ]", "size of the brush"],
];
const STATES = [["present", "Present", "Y"], ["absent", "Absent", "N"], ["unchecked", "Not checked", "U"]];
const SIGNS = {done: "✓", begun: "◐", open: "○"};

const openOf = pair => pair.marks.filter(mark => mark.status === "proposed");
const pressed = isOn => ({aria: {pressed: String(isOn)}});
const quiet = {className: "sw-quiet"}, wide = {className: "sw-wide"};

function panelsOf(desk) {
  const {$, ui, store, ids, acts} = desk;

  function build(root) {
    root.classList.add("sw-annotator");
    root.tabIndex = 0;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves the keys to this element
    Object.assign(root, {role: "group", ariaLabel: "annotator; the key ? shows its keys"});
    $.strip = make("div", {className: "sw-strip", role: "group", aria: {label: "pictures"}});
    $.tools = make("div", {className: "sw-tools", role: "group", aria: {label: "tools"}});
    $.canvas = make("canvas", {role: "img", aria: {label: "picture with marks"}});
    $.over = make("div", {className: "sw-over"});
    $.empty = make("div", {className: "sw-empty", hidden: true});
    $.keys = make("div", {className: "sw-keys", hidden: true},
      ...KEYS.flatMap(([key, what]) => [make("kbd", {textContent: key}), make("span", {textContent: what})]));
    const stage = make("div", {className: "sw-stage"}, $.canvas, $.over, $.empty, $.keys);
    $.phrases = make("div", {className: "sw-phrases"});
    $.input = make("input", {placeholder: "add a phrase", aria: {label: "add a phrase"}, maxLength: 120});
    const form = make("form", {className: "sw-add"}, $.input, button("Add", "Add the phrase", null, {type: "submit"}));
    form.onsubmit = event => {
      event.preventDefault();
      acts.addPhrase($.input.value);
      $.input.value = "";
    };
    $.pair = make("div", {className: "sw-pair"});
    $.foot = make("div", {className: "sw-foot", aria: {live: "polite"}});
    const side = make("div", {className: "sw-side"}, $.phrases, form, $.pair);
    root.replaceChildren($.strip, $.tools, make("div", {className: "sw-main"}, side, stage), $.foot);
  }

  function draw() {
    drawTools();
    $.phrases.replaceChildren(...store.value.phrases.map(phraseRow));
    drawPair();
    drawStrip();
    drawFoot();
    $.empty.textContent = !ids.length
      ? "No pictures yet. Give the annotator a folder, picture files or an ExampleSet."
      : !ui.phrase ? "What are you looking for? Write a phrase such as “red circle” and press Enter." : "";
    $.empty.hidden = !$.empty.textContent;
  }

  function drawTools() {
    const group = (...children) => make("span", {className: "sw-group"}, ...children);
    const sign = (text, title, value) =>
      button(text, title, () => acts.act({sign: value}), {data: {sign: text}, ...pressed(ui.sign === value)});
    $.tools.replaceChildren(
      group(...TOOLS.map(([tool, name, key, title]) =>
        button(name, `${title} (${key})`, () => acts.act({tool}), {data: {tool}, ...pressed(ui.tool === tool)}))),
      group(sign("+", "Such is meant (X)", true), sign("−", "Such is not meant (X)", false)),
      group(button("Undo", "Ctrl+Z", acts.undo, {disabled: !store.canUndo}),
        button("Redo", "Ctrl+Shift+Z", acts.redo, {disabled: !store.canRedo}),
        button("Delete", "Remove the selected mark (Delete)", acts.remove, {disabled: !desk.selected()})),
      group(button("Zoom −", "Key −", () => acts.zoom(1 / 1.4), wide),
        button("Fit", "The whole picture (0)", () => acts.zoom(0)),
        button("Zoom +", "Key +", () => acts.zoom(1.4), wide)),
      ui.tool !== "paint" ? "" : group(button("Brush −", "Key [", () => acts.resizeBrush(1 / 1.3)),
        button("Brush +", "Key ]", () => acts.resizeBrush(1.3))),
      group(button("Keys", "Show the keys (?)", acts.toggleKeys, wide)));
  }

  function phraseRow(phrase, place) {
    const pair = store.pair(ui.picture, phrase), count = objectsOf(pair).length, open = openOf(pair).length;
    const state = pair.exhaustive ? `all ${count}` : count ? `${count} so far` : pair.state;
    const choose = () => acts.act({phrase, selected: null});
    return make("div", {className: "sw-phrase"},
      button(phrase, place < 9 ? `Key ${place + 1}` : "", choose, pressed(phrase === ui.phrase)),
      make("span", {textContent: open ? `${open} to judge` : state}),
      button("×", `Take “${phrase}” off the list`, () => acts.dropPhrase(phrase), quiet));
  }

  function drawPair() {
    if (!ui.phrase || !ui.picture) return $.pair.replaceChildren();
    const pair = store.pair(ui.picture, ui.phrase), open = openOf(pair), count = objectsOf(pair).length;
    const tick = make("input", {type: "checkbox", checked: pair.exhaustive, disabled: !count});
    tick.onchange = () => acts.setExhaustive(tick.checked);
    const stateButton = ([state, name, key]) =>
      button(name, `Key ${key}`, () => acts.setState(state), {data: {state}, ...pressed(pair.state === state)});
    const ask = (text, title, what, isReady) => button(text, title, () => acts.ask(what), {disabled: !isReady});
    const hasExamples = pair.marks.some(mark => mark.positive && mark.status === "kept");
    $.pair.replaceChildren(
      make("div", {className: "sw-states", role: "group", aria: {label: "is the phrase in this picture?"}},
        ...STATES.map(stateButton)),
      make("label", {className: "sw-tick", title: "Only then does the pair become a label to learn from (E)"}, tick,
        count ? ` All of them are marked (${count})` : " All of them are marked"),
      !desk.canAsk ? "" : make("div", {className: "sw-asks"},
        ask("Find more like these", "Ask the model, with the marks as examples (F)", "similar", hasExamples),
        ask("Outline", "Ask for the outline of the selected mark (O)", "outline", desk.selected())),
      open.length ? make("div", {className: "sw-asks"}, make("span", {textContent: `${open.length} proposed:`}),
        button("Accept all", "", () => acts.judgeAll("kept")),
        button("Reject all", "", () => acts.judgeAll("rejected"))) : "",
      make("div", {className: "sw-marks"},
        ...open.map(markRow), ...pair.marks.filter(mark => mark.status === "kept").map(markRow)));
  }

  function markRow(mark) {
    const isOpen = mark.status === "proposed", isOn = mark.of !== undefined && mark.kind === "click";
    const sign = isOpen ? "?" : mark.positive ? "+" : "−";
    const of = mark.of === undefined ? "" : `${isOn ? "on" : "for"} ${mark.of}`;
    const about = [mark.kind, of, mark.score === undefined ? "" : mark.score.toFixed(2)].filter(Boolean).join(" · ");
    const chip = chipOf(`${sign}${mark.id}`, mark.positive ? colourOf(isOn ? mark.of : mark.id) : NEGATIVE);
    const choose = () => acts.act({selected: mark.id});
    return make("div", {className: "sw-mark", data: {mark: mark.id}, ...pressed(mark.id === ui.selected)},
      make("button", {type: "button", onclick: choose}, chip, ` ${about}`),
      ...(isOpen
        ? [button("✓", "Accept (A)", () => acts.judge(mark.id, "kept")),
          button("✗", "Reject (R)", () => acts.judge(mark.id, "rejected"))]
        : [button("×", "Remove", () => acts.remove(mark.id), quiet)]));
  }

  function drawStrip() {
    if ($.strip.childElementCount !== ids.length) $.strip.replaceChildren(...ids.map(thumbnail));
    [...$.strip.children].forEach((item, place) => {
      const state = store.progress(ids[place]);
      item.setAttribute("aria-pressed", String(ids[place] === ui.picture));
      item.lastChild.textContent = SIGNS[state];
      item.dataset.progress = state;
    });
  }

  function thumbnail(id) {
    const image = make("img", {alt: "", loading: "lazy", draggable: false});
    desk.small(id).then(address => { image.src = address; }, () => image.classList.add("sw-broken"));
    const item = button("", id, () => acts.show(id), {data: {picture: id}, aria: {label: id}});
    item.append(image, make("span", {className: "sw-sign"}));
    return item;
  }

  function drawFoot() {
    const finished = ids.filter(id => store.progress(id) === "done").length, cost = store.cost(ui.picture);
    const parts = !ids.length ? [] : [`${finished} of ${ids.length} pictures done`,
      `this one ${cost.clicks} clicks, ${Math.round(cost.seconds)} s`, `median ${Math.round(store.medianSeconds())} s`];
    const chosen = desk.selected();
    if (ui.tool === "click" && chosen && isObject(chosen)) parts.push(`clicks belong to ${chosen.id} (Esc: to none)`);
    const note = make("span", {className: ui.isError ? "sw-error" : "", textContent: ui.note});
    $.foot.replaceChildren(make("span", {textContent: parts.join(" · ")}), note);
  }

  return {build, draw, drawFoot};
}
