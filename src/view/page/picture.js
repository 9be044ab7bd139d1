// Draws a slice: grey values, outlines of the classes along the borders of their pixels, and where the patient's sides are.

const MARGIN = 28; // around the image, CSS pixels
const LINE = 2;

/** Anatomical side to which a direction (LPS) points, with a second letter if it is oblique. */
function side(direction) {
  const letters = [["L", "R"], ["P", "A"], ["H", "F"]];
  return direction
    .map((value, axis) => [Math.abs(value), letters[axis][value < 0 ? 1 : 0]])
    .filter(([size]) => size > 0.3)
    .sort((a, b) => b[0] - a[0])
    .map(([, letter]) => letter)
    .join("");
}

/** The slice as a canvas of its own size, in the window [low, high] in the unit of the images. */
function grey(slice, [low, high]) {
  const canvas = new OffscreenCanvas(slice.columns, slice.rows);
  const context = canvas.getContext("2d");
  const data = context.createImageData(slice.columns, slice.rows);
  const [from, to] = slice.window;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, value) =>
    (((from + (value / 255) * (to - from)) - low) / Math.max(high - low, 1e-12)) * 255);
  const pixels = new Uint32Array(data.data.buffer);
  slice.image_pixels.forEach((value, place) => {
    const shade = table[value];
    pixels[place] = 0xff000000 | (shade << 16) | (shade << 8) | shade;
  });
  context.putImageData(data, 0, 0);
  return canvas;
}

/** Outline of each class as a path along pixel borders, in canvas pixels. */
function outlines(slice, x, y) {
  const { rows, columns, mask_pixels: mask } = slice;
  const at = (row, column) =>
    row < 0 || column < 0 || row >= rows || column >= columns ? 0 : mask[row * columns + column];
  const paths = new Map();
  const add = (label, draw) => {
    if (label === 0) return;
    if (!paths.has(label)) paths.set(label, new Path2D());
    draw(paths.get(label));
  };
  // Along rows, then along columns: a line goes on while the same two classes meet.
  const trace = (lines, length, pair, move) => {
    for (let line = 0; line <= lines; line++) {
      let start = 0;
      for (let place = 1; place <= length; place++) {
        const [a, b] = pair(line, start);
        const [c, d] = place < length ? pair(line, place) : [-1, -1];
        if (a === c && b === d) continue;
        if (a !== b) for (const label of [a, b]) add(label, (path) => move(path, line, start, place));
        start = place;
      }
    }
  };
  trace(rows, columns, (line, place) => [at(line - 1, place), at(line, place)], (path, line, start, end) => {
    path.moveTo(x(start), y(line));
    path.lineTo(x(end), y(line));
  });
  trace(columns, rows, (line, place) => [at(place, line - 1), at(place, line)], (path, line, start, end) => {
    path.moveTo(x(line), y(start));
    path.lineTo(x(line), y(end));
  });
  return paths;
}

/** The pixels of visible classes as a translucent layer. */
function filling(slice, colours) {
  const canvas = new OffscreenCanvas(slice.columns, slice.rows);
  const context = canvas.getContext("2d");
  const data = context.createImageData(slice.columns, slice.rows);
  const shades = colours.map((colour) => colour && [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16)));
  slice.mask_pixels.forEach((label, place) => {
    if (shades[label]) data.data.set([...shades[label], 70], 4 * place);
  });
  context.putImageData(data, 0, 0);
  return canvas;
}

function letters(context, slice, [left, top, width, height]) {
  const [row, column] = slice.placement.orientation;
  const back = (direction) => direction.map((value) => -value);
  context.font = "600 13px system-ui, 'DejaVu Sans', sans-serif";
  context.fillStyle = "#98a1ad";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(side(row), left + width + MARGIN / 2, top + height / 2);
  context.fillText(side(back(row)), left - MARGIN / 2, top + height / 2);
  context.fillText(side(column), left + width / 2, top + height + MARGIN / 2);
  context.fillText(side(back(column)), left + width / 2, top - MARGIN / 2);
}

/** Draws a slice on a canvas. `colours`: of each class that is shown, else null. */
export function draw(canvas, slice, { window, colours, fill }) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  if (!slice) return;
  const [rowDistance, columnDistance] = slice.placement ? slice.placement.spacing : [1, 1];
  const scale = Math.min(
    (width - 2 * MARGIN) / (slice.columns * columnDistance), (height - 2 * MARGIN) / (slice.rows * rowDistance));
  const [stepX, stepY] = [columnDistance * scale, rowDistance * scale];
  const size = [slice.columns * stepX, slice.rows * stepY];
  const frame = [(width - size[0]) / 2, (height - size[1]) / 2, ...size];
  context.imageSmoothingQuality = "high";
  if (slice.image_pixels) context.drawImage(grey(slice, window), ...frame);
  if (slice.placement) letters(context, slice, frame);
  Object.assign(canvas.dataset, { left: frame[0], top: frame[1], stepX, stepY });
  if (!slice.mask_pixels) return;
  if (fill) {
    context.imageSmoothingEnabled = false;
    context.drawImage(filling(slice, colours), ...frame);
  }
  context.lineWidth = LINE;
  context.lineCap = "round";
  context.setLineDash(slice.mask === "final" ? [] : [3, 4]);
  for (const [label, path] of outlines(slice, (column) => frame[0] + column * stepX, (row) => frame[1] + row * stepY)) {
    if (!colours[label]) continue;
    context.strokeStyle = colours[label];
    context.stroke(path);
  }
}
