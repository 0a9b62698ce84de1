// Masks as COCO's compressed run lengths: down the columns, from left to right, beginning outside the mask.
// The same form as sam3/rle.py. Pixel p of a mask of height h is at x = floor(p / h), y = p % h.

function runsOf(text) {
  const runs = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, group;
    do {
      group = text.charCodeAt(place++) - 48;
      value += (group & 31) * 2 ** shift;
      shift += 5;
    } while (group & 32);
    if (group & 16) value -= 2 ** shift;
    // From the fourth run on, the difference to the run two before is written.
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

function textOf(runs) {
  let text = "";
  runs.forEach((run, place) => {
    let value = place > 2 ? run - runs[place - 2] : run;
    for (let more = true; more;) {
      const group = value & 31;
      value >>= 5;
      more = value !== (group & 16 ? -1 : 0);
      text += String.fromCharCode(group + (more ? 32 : 0) + 48);
    }
  });
  return text;
}

function bitsOf(text, width, height) {
  const bits = new Uint8Array(width * height);
  let start = 0;
  runsOf(text).forEach((run, place) => {
    if (place % 2) bits.fill(1, start, start + run);
    start += run;
  });
  return bits;
}

// {text, box} of a mask, box as x0 y0 x1 y1 with right and lower end exclusive; null for a mask without pixels.
function rleOfBits(bits, width, height) {
  const runs = [];
  let value = 0, start = 0, x0 = width, y0 = height, x1 = 0, y1 = 0;
  for (let place = 0; place <= bits.length; place++) {
    if (place < bits.length && bits[place] === value) continue;
    if (value) {
      const first = Math.floor(start / height), last = Math.floor((place - 1) / height);
      const wraps = last > first;
      x0 = Math.min(x0, first);
      x1 = Math.max(x1, last + 1);
      y0 = Math.min(y0, wraps ? 0 : start % height);
      y1 = Math.max(y1, wraps ? height : (place - 1) % height + 1);
    }
    runs.push(place - start);
    start = place;
    value = 1 - value;
  }
  return x1 > x0 ? {text: textOf(runs), box: [x0, y0, x1, y1]} : null;
}

// A small canvas with one mask, and where its upper left corner belongs. `style`: "kept", "proposed" or "negative".
// A white rim keeps dark colours visible on dark pictures.
function stampOf(text, box, width, height, colour, style) {
  const line = Math.max(1, Math.round(Math.min(width, height) / 320));
  const x0 = Math.max(0, Math.floor(box[0]) - line), y0 = Math.max(0, Math.floor(box[1]) - line);
  const x1 = Math.min(width, Math.ceil(box[2]) + line), y1 = Math.min(height, Math.ceil(box[3]) + line);
  const canvas = Object.assign(document.createElement("canvas"), {width: x1 - x0, height: y1 - y0});
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(x1 - x0, y1 - y0), pixels = new Uint32Array(image.data.buffer);
  const rgb = colour[0] | colour[1] << 8 | colour[2] << 16; // bytes in the order of memory: red, green, blue, opacity
  const bits = bitsOf(text, width, height);
  const inside = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? bits[x * height + y] : 0);
  for (let x = x0; x < x1; x++) {
    for (let y = y0; y < y1; y++) {
      const around = inside(x - line, y) + inside(x + line, y) + inside(x, y - line) + inside(x, y + line);
      let value = 0;
      if (inside(x, y)) {
        const isStripe = (x + (style === "negative" ? -y : y) + 8 * line * height) % (8 * line) < 3 * line;
        const opacity = around < 4 ? 255 : style === "kept" ? 100 : isStripe ? 120 : 20;
        value = rgb | opacity << 24;
      } else if (around) value = 0xd0ffffff;
      pixels[(y - y0) * (x1 - x0) + x - x0] = value >>> 0;
    }
  }
  pen.putImageData(image, 0, 0);
  // Where its number stands: at the first pixel of the uppermost row, which may be far from the corner of the box.
  const top = Math.floor(box[1]);
  let left = Math.floor(box[0]);
  while (left < x1 - 1 && !inside(left, top)) left++;
  return {canvas, x: x0, y: y0, anchor: [left, top]};
}
