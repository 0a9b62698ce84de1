// The annotator: one picture at a time, the phrases to look for in it, and the marks of the phrase that is chosen.
// `host` is what the world around provides:
//   task     {pictures: [image ids], can_ask: whether somebody hears requests}
//   get()    the marks; set(value) sends them; watch(callback) tells when they came from Python
//   ask(request)                    reports a wish: more like these, or the outline of a mark
//   picture(id, isSmall)            a promise of the address of a picture
//   notes(callback)                 tells what Python answers: {text, is_error}

function mountAnnotator(root, host) {
  const store = createStore(host.get(), value => host.set(value));
  const ids = host.task.pictures;
  const ui = {picture: ids[0] ?? null, phrase: store.value.phrases[0] ?? null, selected: null, tool: "box", sign: true,
    brush: 0, image: null, note: "", isError: false, requests: 0};
  const $ = {};
  const acts = {act, show, undo, redo, remove, zoom, resizeBrush, ask, judge, judgeAll, setState, setExhaustive,
    addPhrase, dropPhrase, toggleKeys: () => { $.keys.hidden = !$.keys.hidden; }};
  const small = id => host.picture(id, true);
  const panels = panelsOf({$, ui, store, ids, acts, small, canAsk: host.task.can_ask, selected: () => selectedNow()});
  panels.build(root);
  const view = createView($.canvas);
  let isFrameAsked = false;
  const gestures = listenToPointers({canvas: $.canvas, view, ui, add, edit, remove, act, redraw, say, hasFocus,
    isReady: () => Boolean(ui.picture && ui.phrase), marks: () => marksNow(), selected: () => selectedNow()});

  const pairNow = () => store.pair(ui.picture, ui.phrase);
  const marksNow = () => (ui.phrase ? pairNow().marks : []);
  const selectedNow = () => marksNow().find(mark => mark.id === ui.selected && mark.status !== "rejected");
  const change = edit => store.change(ui.picture, ui.phrase, edit);
  function hasFocus() { return root.contains(root.getRootNode().activeElement); }

  function say(text, isError = false) {
    Object.assign(ui, {note: text, isError});
    panels.drawFoot();
  }

  function refresh() {
    const hadFocus = hasFocus();
    if (ui.phrase !== null && !store.value.phrases.includes(ui.phrase)) ui.phrase = null;
    ui.phrase ??= store.value.phrases[0] ?? null;
    if (!selectedNow()) ui.selected = null;
    panels.draw();
    redraw();
    if (hadFocus && !hasFocus()) root.focus({preventScroll: true}); // the elements are new, the keys still arrive here
  }

  // ---- What a person does ----

  function addPhrase(text) {
    const [phrase] = text.split(",").map(store.addPhrase).filter(Boolean);
    if (phrase) act({phrase, selected: null});
  }

  function dropPhrase(phrase) {
    const count = store.removePhrase(phrase), where = count === 1 ? "one picture" : `${count} pictures`;
    say(count ? `“${phrase}” is marked or answered in ${where}; clear that first.` : `“${phrase}” is off the list.`,
      count > 0);
    refresh();
  }

  function act(changes) {
    Object.assign(ui, changes);
    refresh();
  }

  function show(id) {
    if (id === undefined || id === null) return;
    if (id !== ui.picture) store.leave(ui.picture);
    const isNew = id !== ui.picture || !ui.image;
    Object.assign(ui, {picture: id, selected: null});
    if (isNew) load(id);
    $.strip.children[ids.indexOf(id)]?.scrollIntoView({block: "nearest", inline: "nearest"});
    refresh();
  }

  function load(id) {
    ui.image = null;
    const entry = store.picture(id), image = new Image();
    view.fit(entry.width, entry.height);
    ui.brush = Math.max(1, Math.min(entry.width, entry.height) / 40);
    image.onload = () => { if (ui.picture === id) { ui.image = image; redraw(); } };
    image.onerror = () => { say(`${id} cannot be shown; check that the file is still there.`, true); };
    host.picture(id, false).then(address => { image.src = address; }, image.onerror);
  }

  function setState(state) {
    const count = objectsOf(pairNow()).length;
    if (state !== "present" && count) say(`${count} objects are marked here; delete them first.`, true);
    else change(pair => { pair.state = state; });
    refresh();
  }

  function setExhaustive(isOn) {
    if (isOn && !objectsOf(pairNow()).length) say("Mark the objects first, or choose Absent.", true);
    else change(pair => { pair.exhaustive = isOn; });
    refresh();
  }

  function add(mark) {
    let id = null;
    change(pair => {
      id = nextId(pair);
      pair.marks.push({id, status: "kept", source: "person", ...mark});
    });
    return id;
  }

  // Another version of a mark; a proposal that was corrected by hand is accepted with it.
  function edit(id, changes) {
    change(pair => {
      const mark = pair.marks.find(one => one.id === id);
      const {score, ...rest} = mark;
      const kept = mark.status === "proposed" ? {...rest, status: "kept", source: "person"} : mark;
      pair.marks = pair.marks.map(one => (one.id === id ? {...kept, ...changes} : one));
    });
  }

  function remove(id) {
    const target = typeof id === "number" ? id : ui.selected;
    change(pair => { pair.marks = pair.marks.filter(mark => mark.id !== target); });
    refresh();
  }

  function judge(id, status) {
    const open = openOf(pairNow()), place = open.findIndex(mark => mark.id === id);
    if (place < 0) return;
    change(pair => judgeIn(pair, id, status));
    act({selected: (open[place + 1] ?? open.find(mark => mark.id !== id))?.id ?? null});
  }

  function judgeAll(status) {
    change(pair => openOf(pair).forEach(mark => judgeIn(pair, mark.id, status)));
    act({selected: null});
  }

  // An accepted outline takes the place of the box it was proposed for.
  function judgeIn(pair, id, status) {
    const mark = pair.marks.find(one => one.id === id);
    mark.status = status;
    if (status !== "kept" || mark.of === undefined) return;
    pair.marks = pair.marks.filter(one => one.id !== mark.of);
    pair.marks.forEach(one => { if (one.kind === "click" && one.of === mark.of) one.of = id; });
    delete mark.of;
  }

  function ask(what) {
    if (!host.task.can_ask || !ui.phrase || (what === "outline" && !selectedNow())) return;
    ui.requests += 1;
    say(`Asked for ${what === "similar" ? "more like these" : "the outline"}; what is found appears here as proposals.`);
    host.ask({number: Date.now() + ui.requests, ask: what, image: ui.picture, phrase: ui.phrase, mark: ui.selected});
  }

  function undo() { follow(store.undo()); }
  function redo() { follow(store.redo()); }
  function follow(step) {
    if (step && (step.id !== ui.picture || step.phrase !== ui.phrase)) {
      ui.phrase = step.phrase;
      show(step.id);
    }
    refresh();
  }

  function zoom(factor) {
    if (factor) view.zoomAt([$.canvas.clientWidth / 2, $.canvas.clientHeight / 2], factor);
    else view.fit();
    redraw();
  }

  function resizeBrush(factor) { ui.brush = limit(ui.brush * factor, 0.5, view.width / 4); }

  // ---- Drawing ----

  function redraw() {
    if (isFrameAsked) return;
    isFrameAsked = true;
    requestAnimationFrame(() => {
      isFrameAsked = false;
      const entry = store.picture(ui.picture);
      const others = Object.entries(entry?.pairs ?? {}).filter(([phrase]) => phrase !== ui.phrase)
        .flatMap(([, pair]) => pair.marks.filter(mark => isObject(mark)));
      view.draw({picture: ui.image, others, selected: ui.selected, ...gestures.preview(marksNow())});
      drawOver();
    });
  }

  // Accept and reject beside the proposal that is selected.
  function drawOver() {
    const mark = selectedNow();
    if (mark?.status !== "proposed") return $.over.replaceChildren();
    if (!$.over.childElementCount) {
      $.over.replaceChildren(button("✓ Accept", "Key A", () => judge(ui.selected, "kept")),
        button("✗ Reject", "Key R", () => judge(ui.selected, "rejected")));
    }
    const [x, y] = view.toScreen([mark.box[0], mark.box[3]]);
    $.over.style.left = `${limit(x, 0, Math.max(0, $.canvas.clientWidth - $.over.offsetWidth))}px`;
    $.over.style.top = `${limit(y + 4, 0, $.canvas.clientHeight - 36)}px`;
  }

  // ---- Keys, attention, and what comes from outside ----

  const nudge = (event, x, y) => {
    const mark = selectedNow(), step = event.shiftKey ? 10 : 1;
    if (mark && mark.kind !== "mask") edit(mark.id, gestures.moved(mark, x * step, y * step));
    refresh();
  };
  // Without a pointer: a box or a click in the middle of what is shown, which the arrows then bring to its place.
  const place = event => {
    if (event.repeat) return; // a key that is held places one mark
    const point = gestures.middle(), reach = Math.min(view.width, view.height) / 8;
    const marks = {click: {kind: "click", point}, box: {kind: "box", box: gestures.around(point, reach)}};
    if (!marks[ui.tool]) return false;
    act({selected: add({...marks[ui.tool], positive: ui.sign})});
  };
  const stretch = (event, x, y) => {
    const mark = selectedNow(), step = event.shiftKey ? 10 : 1;
    if (mark?.kind !== "box") return false;
    edit(mark.id, {box: gestures.stretched(mark.box, x * step, y * step)});
    refresh();
  };
  const beside = step => show(ids[ids.indexOf(ui.picture) + step]);
  const judgeChosen = status => judge(ui.selected ?? openOf(pairNow())[0]?.id, status);
  const nextMark = event => {
    const marks = marksNow().filter(mark => mark.status !== "rejected");
    const place = marks.findIndex(mark => mark.id === ui.selected) + (event.shiftKey ? -1 : 1);
    act({selected: marks[place]?.id ?? null});
    return Boolean(marks[place]); // past the last mark, Tab leaves the picture as everywhere
  };
  const COMMANDS = {
    v: () => act({tool: "select"}), b: () => act({tool: "box"}), c: () => act({tool: "click"}),
    m: () => act({tool: "paint"}), x: () => act({sign: !ui.sign}), ",": () => beside(-1), ".": () => beside(1),
    y: () => setState("present"), n: () => setState("absent"), u: () => setState("unchecked"),
    e: () => ui.phrase && setExhaustive(!pairNow().exhaustive),
    a: () => judgeChosen("kept"), r: () => judgeChosen("rejected"), tab: nextMark, enter: place,
    delete: () => remove(), backspace: () => remove(), escape: () => act({selected: null}),
    arrowleft: event => nudge(event, -1, 0), arrowright: event => nudge(event, 1, 0),
    arrowup: event => nudge(event, 0, -1), arrowdown: event => nudge(event, 0, 1),
    f: () => pairNow().marks.some(isObject) && ask("similar"), o: () => ask("outline"),
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => zoom(0),
    "[": () => resizeBrush(1 / 1.3), "]": () => resizeBrush(1.3), "?": acts.toggleKeys,
    " ": () => { gestures.isSpace = true; },
  };

  const CHORDS = {
    z: event => (event.shiftKey ? redo() : undo()), y: redo,
    arrowleft: event => stretch(event, -1, 0), arrowright: event => stretch(event, 1, 0),
    arrowup: event => stretch(event, 0, -1), arrowdown: event => stretch(event, 0, 1),
  };

  root.addEventListener("keydown", event => {
    event.stopPropagation();
    store.spend(event.timeStamp / 1000, !event.repeat);
    if (event.target === $.input || !ui.picture) return;
    const key = event.key.toLowerCase(), isChord = event.ctrlKey || event.metaKey;
    const onButton = event.target.tagName === "BUTTON" || event.target.type === "checkbox";
    if (onButton && [" ", "enter", "tab"].includes(key)) return;
    let command = (isChord ? CHORDS : COMMANDS)[key];
    const number = isChord ? NaN : Number(key);
    const phrase = number >= 1 && number <= 9 ? store.value.phrases[number - 1] : null;
    if (phrase) command = () => act({phrase, selected: null});
    if (!command || (event.altKey && !isChord) || (!ui.phrase && !",.".includes(key))) return;
    if (command(event) !== false) event.preventDefault();
  });
  root.addEventListener("keyup", event => { if (event.key === " ") gestures.isSpace = false; });
  root.addEventListener("pointerdown", event => {
    store.spend(event.timeStamp / 1000, true);
    if (event.target === $.canvas) root.focus({preventScroll: true});
  }, true);
  root.addEventListener("pointermove", event => store.spend(event.timeStamp / 1000, false));

  host.watch(value => {
    store.adopt(value);
    refresh();
  });
  host.notes(({text, is_error: isError}) => say(text, isError));
  const observer = new ResizeObserver(() => {
    view.resize();
    redraw();
  });
  observer.observe($.canvas);
  const tick = setInterval(panels.drawFoot, 5000);
  view.resize();
  if (ui.picture) show(ui.picture);
  else refresh();
  return () => {
    store.leave(ui.picture);
    clearInterval(tick);
    observer.disconnect();
  };
}
