// From pointers on the canvas to marks: mouse, pen and fingers. One pointer draws, two fingers move and zoom.
// `desk` is the annotator: {canvas, view, ui, isReady(), marks(), selected(), add, edit, act, redraw}.

const TOLERANCE_PX = {mouse: 7, pen: 12, touch: 20};
const MIN_SIDE_PX = 3; // smaller drags, on the screen, are slips

function listenToPointers(desk) {
  const {canvas, view, ui} = desk;
  const touches = new Map();
  let gesture = null;
  const gestures = {isSpace: false};

  const at = event => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const round = value => Math.round(10 * value) / 10;
  const inPicture = ([x, y]) => [round(limit(x, 0, view.width)), round(limit(y, 0, view.height))];
  const idOfNext = () => nextId({marks: desk.marks()});

  canvas.addEventListener("pointerdown", event => {
    if (!desk.isReady()) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const point = at(event);
    if (event.pointerType === "touch") {
      touches.set(event.pointerId, point);
      if (touches.size === 2) gesture = {kind: "pinch"};
      if (touches.size > 1) return desk.redraw();
    }
    gesture = begin(event, point);
    desk.redraw();
  });

  function begin(event, point) {
    const common = {start: point, from: inPicture(view.toImage(point)), type: event.pointerType};
    const sign = event.button === 2 ? false : ui.sign;
    if (event.button === 1 || gestures.isSpace) return {...common, kind: "pan", last: point};
    const under = view.hit(point, desk.marks(), ui.selected, TOLERANCE_PX[event.pointerType] ?? 7);
    if (under.handle && ["select", "box"].includes(ui.tool)) return {...common, kind: "resize", ...under};
    if (ui.tool === "box") return {...common, kind: "box", sign};
    if (ui.tool === "click") return {...common, kind: "click", sign};
    if (ui.tool === "paint") return {...common, kind: "paint", sign, points: [view.toImage(point)]};
    desk.act({selected: under.mark?.id ?? null});
    if (!under.mark) return {...common, kind: "pan", last: point};
    return {...common, kind: under.mark.kind === "mask" ? "none" : "move", mark: under.mark};
  }

  canvas.addEventListener("pointermove", event => {
    const point = at(event);
    if (gesture?.kind === "pinch") return pinch(event, point);
    if (touches.has(event.pointerId)) touches.set(event.pointerId, point);
    if (!gesture) return;
    if (gesture.kind === "pan") {
      view.zoomAt(gesture.last, 1, [point[0] - gesture.last[0], point[1] - gesture.last[1]]);
      gesture.last = point;
    } else if (gesture.kind === "paint") {
      for (const part of event.getCoalescedEvents?.() ?? [event]) gesture.points.push(view.toImage(at(part)));
    } else gesture.now = point;
    desk.redraw();
  });

  function pinch(event, point) {
    if (!touches.has(event.pointerId) || touches.size < 2) return;
    const middle = () => {
      const [a, b] = [...touches.values()];
      return {centre: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], span: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1};
    };
    const before = middle();
    touches.set(event.pointerId, point);
    const after = middle();
    const shift = after.centre.map((value, axis) => value - before.centre[axis]);
    view.zoomAt(before.centre, after.span / before.span, shift);
    desk.redraw();
  }

  function finish(event, isCancelled) {
    touches.delete(event.pointerId);
    const one = gesture;
    if (!one || (one.kind === "pinch" && touches.size)) return;
    gesture = null;
    if (!isCancelled && one.kind !== "pinch") end(one, at(event));
    desk.redraw();
  }
  canvas.addEventListener("pointerup", event => finish(event, false));
  canvas.addEventListener("pointercancel", event => finish(event, true));
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("wheel", event => {
    if (!desk.isReady() || !(event.ctrlKey || desk.hasFocus())) return;
    event.preventDefault();
    view.zoomAt(at(event), Math.exp(-limit(event.deltaY, -120, 120) / 300));
    desk.redraw();
  }, {passive: false});

  function end(one, point) {
    const moved = Math.hypot(point[0] - one.start[0], point[1] - one.start[1]);
    if (one.kind === "box") {
      const box = boxBetween(one.from, inPicture(view.toImage(point)));
      const isSlip = Math.min(box[2] - box[0], box[3] - box[1]) * view.scale < MIN_SIDE_PX;
      // A press without a drag selects what is there, also with the tool for boxes.
      const reach = TOLERANCE_PX[one.type] ?? 7;
      if (isSlip) desk.act({selected: view.hit(point, desk.marks(), null, reach).mark?.id ?? null});
      else desk.act({selected: desk.add({kind: "box", positive: one.sign, box})});
    } else if (one.kind === "click" && moved < TOLERANCE_PX[one.type]) {
      const target = desk.selected(), of = target && isObject(target) ? {of: target.id} : {};
      if (isWithin(view.toImage(one.start))) desk.add({kind: "click", positive: one.sign, point: one.from, ...of});
      desk.act({});
    } else if (one.kind === "paint") paint(one);
    else if ((one.kind === "move" || one.kind === "resize") && moved > 0) {
      desk.edit(one.mark.id, moving(one, point));
      desk.act({selected: one.mark.id});
    }
  }

  const isWithin = ([x, y]) => x >= 0 && y >= 0 && x <= view.width && y <= view.height;
  const boxBetween = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];

  // The new place of a mark that is dragged.
  function moving(one, point) {
    const to = inPicture(view.toImage(point)), [dx, dy] = [to[0] - one.from[0], to[1] - one.from[1]];
    return one.kind === "resize" ? {box: resized(one.mark.box, one.handle, to)} : moved(one.mark, dx, dy);
  }

  function resized(box, handle, [x, y]) {
    let [x0, y0, x1, y1] = box;
    if (handle.includes("w")) x0 = Math.min(x, x1 - 1);
    if (handle.includes("e")) x1 = Math.max(x, x0 + 1);
    if (handle.includes("n")) y0 = Math.min(y, y1 - 1);
    if (handle.includes("s")) y1 = Math.max(y, y0 + 1);
    return [x0, y0, x1, y1];
  }

  function moved(mark, dx, dy) {
    if (mark.kind === "click") return {point: inPicture([mark.point[0] + dx, mark.point[1] + dy])};
    const [x0, y0, x1, y1] = mark.box;
    const x = limit(dx, -x0, view.width - x1), y = limit(dy, -y0, view.height - y1);
    return {box: [x0 + x, y0 + y, x1 + x, y1 + y].map(round)};
  }
  gestures.moved = moved;
  gestures.middle = () => inPicture(view.toImage([canvas.clientWidth / 2, canvas.clientHeight / 2]));
  gestures.around = ([x, y], reach) => [...inPicture([x - reach, y - reach]), ...inPicture([x + reach, y + reach])];
  gestures.stretched = (box, dx, dy) => resized(box, "se", inPicture([box[2] + dx, box[3] + dy]));

  // Painting changes the selected mask, or makes a new one; with the sign − it rubs out.
  function paint(one) {
    const target = desk.selected(), old = target?.kind === "mask" ? target : null;
    if (!one.sign && !old) return desk.say("Select the mask to rub out from.", true);
    const [width, height] = [view.width, view.height];
    const bits = old ? bitsOf(old.rle, width, height) : new Uint8Array(width * height);
    stampStroke(bits, width, height, one.points, ui.brush, Number(one.sign));
    const result = rleOfBits(bits, width, height);
    if (!result) return old ? desk.remove(old.id) : null;
    const mask = {kind: "mask", rle: result.text, box: result.box};
    desk.act({selected: old ? (desk.edit(old.id, mask), old.id) : desk.add({...mask, positive: true})});
  }

  function stampStroke(bits, width, height, points, radius, value) {
    const disc = (cx, cy) => {
      for (let x = Math.max(0, Math.ceil(cx - radius - 0.5)); x < Math.min(width, cx + radius); x++) {
        const half = Math.sqrt(Math.max(0, radius ** 2 - (x + 0.5 - cx) ** 2));
        const top = limit(Math.round(cy - half), 0, height), end = limit(Math.round(cy + half), 0, height);
        bits.fill(value, x * height + top, x * height + end);
      }
    };
    points.forEach(([x, y], place) => {
      const [px, py] = points[Math.max(0, place - 1)];
      const steps = Math.max(1, Math.ceil(Math.hypot(x - px, y - py) / Math.max(0.5, radius / 3)));
      for (let step = 1; step <= steps; step++) disc(px + (x - px) * step / steps, py + (y - py) * step / steps);
    });
  }

  // What is drawn while a gesture lasts: marks in their new place, the box or the stroke that begins.
  gestures.preview = marks => {
    if (!gesture) return {marks};
    const {kind, now} = gesture;
    if ((kind === "move" || kind === "resize") && now) {
      return {marks: marks.map(mark => (mark.id === gesture.mark.id ? {...mark, ...moving(gesture, now)} : mark))};
    }
    if (kind === "box" && now) {
      const box = boxBetween(gesture.from, inPicture(view.toImage(now)));
      return {marks, draft: {box, positive: gesture.sign, id: idOfNext()}};
    }
    if (kind === "paint") {
      const target = desk.selected(), id = target?.kind === "mask" ? target.id : idOfNext();
      return {marks, stroke: {points: gesture.points, radius: ui.brush, positive: gesture.sign, id}};
    }
    return {marks};
  };
  return gestures;
}
