// The player: a video with its objects drawn over it, before and after, exactly on the frame that is shown.
// `host` is what the world around provides:
//   data       as workbench/video_sides.py writes it ("workbench-masklets-1")
//   address()  a promise of the address of the plain video
//   report({frame, side, hidden})   tells what is shown
//   watch(callback)                 {frame} asks for a frame, {data} brings another video

const PLAYER_KEYS = "Space play · ← → a frame (Shift: 10) · Home End · B before/after · H all objects";

function mountPlayer(root, host) {
  let data = host.data;
  const ui = {frame: 0, side: 0, hidden: new Set(), wanted: null};
  const $ = {};
  let pen = null, stop = null;

  function open() {
    stop?.();
    Object.assign(ui, {frame: 0, side: Math.max(0, (data?.sides?.length ?? 0) - 1), hidden: new Set(), wanted: null});
    build();
    if (!data?.num_frames) return;
    const video = $.video;
    let isLive = true;
    const observer = new ResizeObserver(draw);
    observer.observe($.canvas);
    stop = () => { isLive = false; observer.disconnect(); video.removeAttribute("src"); video.load(); };
    host.address(data).then(address => { if (isLive) video.src = address; }, failed);
    video.onerror = failed;
    // This callback names the frame that is on the screen; the current time may already be ahead of it.
    const shown = (_, {mediaTime}) => {
      if (!isLive) return;
      settle(frameAt(mediaTime));
      video.requestVideoFrameCallback(shown);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(shown);
    else video.ontimeupdate = () => settle(frameAt(video.currentTime));
    video.onseeked = () => settle(frameAt(video.currentTime));
    video.onplay = video.onpause = video.onended = drawControls;
    refresh();
  }

  function failed() {
    $.note.textContent = "The video cannot be played here; check that its file is there, and is H.264 or AV1.";
    $.note.hidden = false;
  }

  function build() {
    root.classList.add("sw-annotator", "sw-player");
    root.tabIndex = 0;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves the keys to this element
    $.video = make("video", {muted: true, playsInline: true, preload: "auto"});
    Object.assign(root, {role: "group", ariaLabel: "video with objects; its keys stand below"});
    $.canvas = make("canvas", {role: "img", aria: {label: "objects in the frame"}});
    const nothing = "No video yet. Follow objects through a video and give the result to the player.";
    $.note = make("div", {className: "sw-empty", hidden: Boolean(data?.num_frames), textContent: nothing});
    $.screen = make("div", {className: "sw-screen"}, $.video, $.canvas, $.note);
    $.controls = make("div", {className: "sw-tools"});
    const last = Math.max(0, (data?.num_frames ?? 1) - 1);
    $.range = make("input", {type: "range", min: 0, max: last, value: 0, step: 1, className: "sw-range",
      aria: {label: "frame"}, oninput: () => seek(Number($.range.value))});
    $.objects = make("div", {className: "sw-objects", role: "group", aria: {label: "objects"}});
    $.foot = make("div", {className: "sw-foot", textContent: PLAYER_KEYS});
    root.replaceChildren($.screen, $.range, $.controls, $.objects, $.foot);
    const [height, width] = data?.size ?? [9, 16];
    $.screen.style.aspectRatio = `${width} / ${height}`;
    $.screen.style.maxWidth = `calc(62vh * ${width / height})`;
    pen = $.canvas.getContext("2d");
  }

  function frameAt(time) {
    const times = data.times_s;
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (times[middle] <= time + 1e-3) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // The middle of a frame's time: its beginning may, after rounding, belong to the frame before.
  function seek(frame) {
    const last = data.num_frames - 1, target = Math.min(last, Math.max(0, frame)), times = data.times_s;
    $.video.pause();
    ui.wanted = target;
    const end = target < last ? times[target + 1] : times[target] + 1 / data.frame_rate;
    $.video.currentTime = (times[target] + end) / 2;
    $.range.value = target;
  }

  function settle(frame) {
    if (ui.wanted !== null && frame !== ui.wanted && $.video.seeking) return; // an older seek is still on its way
    ui.wanted = null;
    const isNew = frame !== ui.frame;
    ui.frame = frame;
    draw();
    if (isNew) tell();
  }

  const tell = () => host.report({frame: ui.frame, side: ui.side, hidden: [...ui.hidden]});

  // The overlay has the resolution of the screen, so that tags and small videos stay sharp.
  function draw() {
    const [height, width] = data.size, ratio = window.devicePixelRatio || 1;
    Object.assign($.canvas, {width: $.canvas.clientWidth * ratio, height: $.canvas.clientHeight * ratio});
    const scale = $.canvas.width / width, size = 13 * ratio;
    const objects = (data.frames[ui.frame]?.[ui.side] ?? []).filter(object => !ui.hidden.has(object.id));
    const known = new Map(data.sides[ui.side]?.masklets.map(one => [one.id, one]));
    const looks = objects.map(object => {
      const {colour, phrase} = known.get(object.id);
      const box = object.box_xyxy_px.map(value => value * scale);
      return {...object, colour: colour ?? colourOf(object.id), phrase, box};
    });
    pen.imageSmoothingEnabled = scale < 3;
    for (const {rle, colour, box, box_xyxy_px: pixels} of looks) {
      if (rle) {
        const {canvas, x, y} = stampOf(rle, pixels, width, height, colour, "kept");
        pen.drawImage(canvas, x * scale, y * scale, canvas.width * scale, canvas.height * scale);
      } else {
        Object.assign(pen, {strokeStyle: css(colour), lineWidth: 2 * ratio});
        pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
      }
    }
    pen.font = `600 ${size}px system-ui, sans-serif`;
    for (const {id, phrase, colour, box} of looks) {
      const text = `${id} ${phrase ?? ""}`.trim();
      const wide = pen.measureText(text).width + 8 * ratio, high = size + 5 * ratio;
      const x = limit(box[0], 0, Math.max(0, $.canvas.width - wide)), y = limit(box[1] - high, 0, $.canvas.height);
      pen.fillStyle = css(colour);
      pen.fillRect(x, y, wide, high);
      pen.fillStyle = isLight(colour) ? "#000" : "#fff";
      pen.fillText(text, x + 4 * ratio, y + size);
    }
    if (ui.wanted === null) $.range.value = ui.frame;
    const counted = objects.length === 1 ? "1 object" : `${objects.length} objects`;
    const time = data.times_s[ui.frame].toFixed(2);
    $.counter.textContent = `frame ${ui.frame + 1} of ${data.num_frames} · ${time} s · ${counted}`;
    root.dataset.frame = ui.frame;
  }

  const pressedWhen = isOn => ({aria: {pressed: String(isOn)}});

  function drawControls() {
    const group = (...children) => make("span", {className: "sw-group"}, ...children);
    const sideButton = ({title}, place) => button(title, "Key B changes between them", () => choose(place),
      {data: {side: place}, ...pressedWhen(place === ui.side)});
    $.counter ??= make("span", {className: "sw-counter"});
    $.controls.replaceChildren(
      group(button("◀", "A frame back (←)", () => seek(ui.frame - 1), {aria: {label: "a frame back"}}),
        button($.video.paused ? "Play" : "Pause", "Space", play, {data: {play: ""}}),
        button("▶", "A frame on (→)", () => seek(ui.frame + 1), {aria: {label: "a frame on"}})),
      data.sides.length > 1 ? group(...data.sides.map(sideButton)) : "",
      $.counter);
  }

  function drawObjects() {
    const known = new Map();
    data.sides.forEach((side, place) => side.masklets.forEach(one => {
      const entry = known.get(one.id) ?? {...one, sides: []};
      entry.sides.push(place);
      known.set(one.id, entry);
    }));
    const chips = [...known.values()].sort((a, b) => a.id - b.id).map(one => {
      const only = data.sides.length > 1 && one.sides.length === 1 ? ` (${data.sides[one.sides[0]].title} only)` : "";
      const item = button("", "Show or hide this object", () => toggle(one.id),
        {className: "sw-object", data: {object: one.id}, ...pressedWhen(!ui.hidden.has(one.id))});
      item.append(chipOf(one.id, one.colour), ` ${one.phrase}${only}`);
      return item;
    });
    if (!chips.length) chips.push(make("span", {textContent: "No object was found in this video."}));
    $.objects.replaceChildren(...chips);
  }

  function refresh() {
    const focused = root.getRootNode().activeElement, hadFocus = root.contains(focused);
    drawControls();
    drawObjects();
    draw();
    if (hadFocus && !root.contains(root.getRootNode().activeElement)) root.focus({preventScroll: true});
  }

  function choose(side) {
    ui.side = side;
    refresh();
    tell();
  }

  function toggle(id) {
    if (!ui.hidden.delete(id)) ui.hidden.add(id);
    refresh();
    tell();
  }

  function toggleAll() {
    const ids = data.sides.flatMap(side => side.masklets.map(one => one.id));
    ui.hidden = ui.hidden.size ? new Set() : new Set(ids);
    refresh();
    tell();
  }

  function play() {
    if ($.video.paused) $.video.play().catch(failed);
    else $.video.pause();
  }

  root.addEventListener("keydown", event => {
    event.stopPropagation();
    if (!data?.num_frames || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1, from = ui.wanted ?? ui.frame;
    const onButton = event.target.tagName === "BUTTON";
    const command = {
      arrowleft: () => seek(from - step), arrowright: () => seek(from + step),
      home: () => seek(0), end: () => seek(data.num_frames - 1),
      b: () => choose((ui.side + 1) % data.sides.length), h: toggleAll, " ": onButton ? null : play,
    }[event.key.toLowerCase()];
    if (!command) return;
    event.preventDefault();
    command();
  });

  host.watch(message => {
    if (message.data) {
      data = message.data;
      open();
    } else if (Number.isInteger(message.frame) && message.frame !== ui.frame && data?.num_frames) seek(message.frame);
  });
  open();
  return () => stop?.();
}
