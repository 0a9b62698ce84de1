// The canvas: where the picture lies on it (zoom and pan), how marks are drawn, and what lies under a point.
// Lines and tags have the same size at every zoom. Shape tells what colour tells: dashed is negative, hatched proposed.

const MARGIN_PX = 8;
const INK = "#1b2128", PAPER = "#ffffff", NEGATIVE = [70, 70, 70];

const colourOf = id => PALETTE[id % PALETTE.length];
const css = colour => `rgb(${colour.join(",")})`;
const isLight = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;
const limit = (value, low, high) => Math.min(high, Math.max(low, value));

// A coloured number, as it stands on the picture too.
function chipOf(text, colour) {
  const chip = make("span", {className: "sw-chip", textContent: text});
  Object.assign(chip.style, {background: css(colour), color: isLight(colour) ? "#000" : "#fff"});
  return chip;
}

function createView(canvas) {
  const pen = canvas.getContext("2d");
  const stamps = new Map();
  const view = {scale: 1, x: 0, y: 0, width: 1, height: 1, toImage, toScreen, fit, zoomAt, resize, draw, handles, hit};
  let isFitted = true;

  function toImage(point) { return [(point[0] - view.x) / view.scale, (point[1] - view.y) / view.scale]; }
  function toScreen(point) { return [point[0] * view.scale + view.x, point[1] * view.scale + view.y]; }

  function fit(width = view.width, height = view.height) {
    Object.assign(view, {width, height});
    const [wide, high] = [canvas.clientWidth - 2 * MARGIN_PX, canvas.clientHeight - 2 * MARGIN_PX];
    view.scale = Math.max(0.01, Math.min(wide / width, high / height));
    view.x = (canvas.clientWidth - width * view.scale) / 2;
    view.y = (canvas.clientHeight - height * view.scale) / 2;
    isFitted = true;
  }

  function zoomAt(point, factor, shift = [0, 0]) {
    const low = 0.5 * Math.min(canvas.clientWidth / view.width, canvas.clientHeight / view.height);
    const scale = limit(view.scale * factor, low, 60);
    const [x, y] = toImage(point);
    Object.assign(view, {scale, x: point[0] + shift[0] - x * scale, y: point[1] + shift[1] - y * scale});
    // Some of the picture stays in sight.
    view.x = limit(view.x, 40 - view.width * scale, canvas.clientWidth - 40);
    view.y = limit(view.y, 40 - view.height * scale, canvas.clientHeight - 40);
    isFitted = false;
  }

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    if (isFitted) fit();
  }

  // scene: {picture, marks, others, selected, draft, stroke, hint}
  function draw(scene) {
    const ratio = window.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    pen.imageSmoothingEnabled = view.scale < 3;
    const [width, height] = [view.width * view.scale, view.height * view.scale];
    if (scene.picture) pen.drawImage(scene.picture, view.x, view.y, width, height);
    pen.imageSmoothingEnabled = false;
    for (const mark of scene.others) frame(boxOf(mark), "#dddddd", 1, []);
    const shown = scene.marks.filter(mark => mark.status !== "rejected");
    // Large ones first, so that small ones lie on top.
    const area = mark => mark.box ? (mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]) : 0;
    shown.sort((a, b) => area(b) - area(a));
    const live = new Set();
    for (const mark of shown) {
      if (mark.kind === "click") click(mark, mark.id === scene.selected);
      else if (mark.kind === "mask") live.add(mask(mark, mark.id === scene.selected));
      else boxMark(mark, mark.id === scene.selected);
    }
    for (const key of stamps.keys()) if (!live.has(key)) stamps.delete(key);
    const taken = [];
    for (const mark of shown) if (mark.kind !== "click") tag(mark, taken);
    const chosen = shown.find(mark => mark.id === scene.selected);
    if (chosen?.kind === "box") for (const [, x, y] of handles(chosen)) knob(x, y);
    if (scene.draft) frame(scene.draft.box, scene.draft.positive ? css(colourOf(scene.draft.id)) : INK, 2, [6, 4]);
    if (scene.stroke) stroke(scene.stroke);
  }

  const boxOf = mark => mark.box ?? [mark.point[0] - 1, mark.point[1] - 1, mark.point[0] + 1, mark.point[1] + 1];

  function frame(box, colour, width, dash) {
    const [x0, y0] = toScreen(box), [x1, y1] = toScreen(box.slice(2));
    pen.setLineDash([]);
    pen.lineWidth = width + 2;
    pen.strokeStyle = "rgba(255,255,255,0.85)";
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    pen.setLineDash(dash);
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    pen.setLineDash([]);
  }

  function boxMark(mark, isSelected) {
    const colour = css(mark.positive ? colourOf(mark.id) : NEGATIVE);
    const dash = mark.status === "proposed" ? [2, 4] : mark.positive ? [] : [7, 4];
    frame(mark.box, colour, isSelected ? 3 : 2, dash);
    if (mark.positive) return;
    const [x0, y0] = toScreen(mark.box), [x1, y1] = toScreen(mark.box.slice(2));
    pen.beginPath();
    pen.moveTo(x0, y1);
    pen.lineTo(x1, y0);
    pen.lineWidth = 1.5;
    pen.stroke();
  }

  const styleOf = mark => (mark.status === "proposed" ? "proposed" : mark.positive ? "kept" : "negative");
  const keyOfStamp = mark => `${mark.id} ${styleOf(mark)} ${mark.rle}`;

  function mask(mark, isSelected) {
    const style = styleOf(mark), key = keyOfStamp(mark);
    const colour = style === "negative" ? NEGATIVE : colourOf(mark.id);
    if (!stamps.has(key)) stamps.set(key, stampOf(mark.rle, mark.box, view.width, view.height, colour, style));
    const {canvas: stamp, x, y} = stamps.get(key), [left, top] = toScreen([x, y]);
    pen.drawImage(stamp, left, top, stamp.width * view.scale, stamp.height * view.scale);
    if (isSelected) frame(mark.box, css(colour), 1, [3, 3]);
    return key;
  }

  function click(mark, isSelected) {
    const [x, y] = toScreen(mark.point), radius = isSelected ? 9 : 7;
    pen.beginPath();
    if (mark.positive) pen.arc(x, y, radius, 0, 7);
    else pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    pen.fillStyle = mark.positive ? css(colourOf(mark.of ?? mark.id)) : INK;
    pen.fill();
    pen.lineWidth = 2;
    pen.strokeStyle = PAPER;
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x - 4, y);
    pen.lineTo(x + 4, y);
    if (mark.positive) {
      pen.moveTo(x, y - 4);
      pen.lineTo(x, y + 4);
    }
    pen.strokeStyle = mark.positive && isLight(colourOf(mark.of ?? mark.id)) ? INK : PAPER;
    pen.stroke();
  }

  // A tag that would lie on another one moves to the right of it.
  function tag(mark, taken) {
    const score = mark.score !== undefined && mark.status === "proposed" ? ` ${mark.score.toFixed(2)}` : "";
    const text = `${mark.status === "proposed" ? "?" : mark.positive ? "" : "−"}${mark.id}${score}`;
    const colour = mark.positive ? colourOf(mark.id) : NEGATIVE;
    pen.font = "600 12px system-ui, sans-serif";
    const width = pen.measureText(text).width + 8;
    const [left, top] = toScreen(stamps.get(keyOfStamp(mark))?.anchor ?? mark.box);
    const y = limit(top - 17, 0, canvas.clientHeight - 17);
    let x = limit(left, 0, canvas.clientWidth - width);
    for (const other of taken) if (Math.abs(other.y - y) < 17 && x < other.end && x + width > other.x) x = other.end + 1;
    taken.push({x, y, end: x + width});
    pen.fillStyle = css(colour);
    pen.fillRect(x, y, width, 17);
    pen.strokeStyle = PAPER;
    pen.lineWidth = 1;
    pen.strokeRect(x, y, width, 17);
    pen.fillStyle = isLight(colour) ? "#000" : "#fff";
    pen.fillText(text, x + 4, y + 13);
  }

  function knob(x, y) {
    pen.fillStyle = PAPER;
    pen.strokeStyle = INK;
    pen.lineWidth = 1.5;
    pen.fillRect(x - 4.5, y - 4.5, 9, 9);
    pen.strokeRect(x - 4.5, y - 4.5, 9, 9);
  }

  function stroke({points, radius, positive, id}) {
    pen.beginPath();
    points.map(toScreen).forEach(([x, y], place) => (place ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (points.length === 1) pen.lineTo(...toScreen([points[0][0] + 0.01, points[0][1]]));
    Object.assign(pen, {lineWidth: 2 * radius * view.scale, lineCap: "round", lineJoin: "round", globalAlpha: 0.6});
    pen.strokeStyle = positive ? css(colourOf(id)) : INK;
    pen.stroke();
    pen.globalAlpha = 1;
  }

  // [name, x, y] on the screen; the name says which sides it moves.
  function handles(mark) {
    const [x0, y0] = toScreen(mark.box), [x1, y1] = toScreen(mark.box.slice(2));
    const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
    return [["nw", x0, y0], ["n", x, y0], ["ne", x1, y0], ["e", x1, y], ["se", x1, y1], ["s", x, y1], ["sw", x0, y1],
      ["w", x0, y]];
  }

  // What lies at a point of the screen: a handle of the selected box, or the smallest mark there.
  function hit(point, marks, selected, reach) {
    const near = (x, y) => Math.hypot(point[0] - x, point[1] - y) <= reach;
    const chosen = marks.find(mark => mark.id === selected);
    const handle = chosen?.kind === "box" && handles(chosen).find(([, x, y]) => near(x, y));
    if (handle) return {mark: chosen, handle: handle[0]};
    const [x, y] = toImage(point), slack = reach / 2 / view.scale;
    const under = marks.filter(mark => mark.status !== "rejected" && (mark.kind === "click"
      ? near(...toScreen(mark.point))
      : x >= mark.box[0] - slack && x <= mark.box[2] + slack && y >= mark.box[1] - slack && y <= mark.box[3] + slack));
    const size = mark => mark.box ? (mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]) : 0;
    return {mark: under.sort((a, b) => size(a) - size(b))[0] ?? null, handle: null};
  }

  return view;
}
