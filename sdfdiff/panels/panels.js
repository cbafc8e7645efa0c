/* Draws the panels of sdfdiff: in JupyterLab, where anywidget calls `render`, and in a saved page, which calls `page`.

   A scene is a function (panel) => draw. It builds its pictures once; `draw` is called in the next screen frame after
   something has changed. `panel.get(name)` is the state that sliders move, `panel.data[name]` = {shape, values} are the
   arrays that came along, `panel.settings` are words and numbers about them. A picture has one canvas pixel for each
   pixel of the data, so that what is seen can be compared with what was computed; the browser enlarges it.
   Arithmetic that must agree with NumPy's float32 to the bit goes through Math.fround. */

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- arrays and colours

const KINDS = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };

function unpacked({ shape, dtype, bytes }) {
  const Kind = KINDS[dtype], { buffer, byteOffset, byteLength } = bytes.buffer ? bytes : new Uint8Array(bytes);
  const aligned = byteOffset % Kind.BYTES_PER_ELEMENT === 0 ? [buffer, byteOffset] : [buffer.slice(byteOffset, byteOffset + byteLength), 0];
  return { shape, values: new Kind(...aligned, byteLength / Kind.BYTES_PER_ELEMENT) };
}

const unpackedAll = (packed) => Object.fromEntries(Object.entries(packed).map(([name, one]) => [name, unpacked(one)]));

/* Part `index` along the leading axes of an array. */
function part(array, ...index) {
  const rest = array.shape.slice(index.length);
  const size = rest.reduce((a, b) => a * b, 1);
  const start = index.reduce((place, i, axis) => place * array.shape[axis] + i, 0) * size;
  return array.values.subarray(start, start + size);
}

/* Colour map, 256 rows of red, green, blue, as the 32-bit numbers that a canvas holds. */
function table(array) {
  const colours = new Uint32Array(256);
  for (let k = 0; k < 256; k++) {
    const [r, g, b] = array.values.subarray(3 * k, 3 * k + 3);
    colours[k] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return colours;
}

function colour(pixels, values, colours, low, high) {
  const scale = 256 / (high - low);
  for (let i = 0; i < pixels.length; i++) {
    const k = (values[i] - low) * scale;
    pixels[i] = colours[k > 0 ? (k < 255 ? k | 0 : 255) : 0];
  }
}

function colourMask(pixels, inside, colours) {
  for (let i = 0; i < pixels.length; i++) pixels[i] = colours[inside[i] ? 255 : 0];
}

// ---- the signed distance, as in sdfdiff.distance

/* Squared distance of each pixel to the nearest source pixel: exact; along columns, then the lower envelope of parabolas
   along rows (Felzenszwalb and Huttenlocher 2012). Infinity where there is no source. */
function squaredDistance(source, rows, columns) {
  const result = new Float64Array(rows * columns).fill(Infinity);
  if (!source.some(Boolean)) return result;
  const far = rows + columns;
  const along = new Int32Array(rows * columns);
  for (let c = 0; c < columns; c++) {
    for (let r = 0, d = far; r < rows; r++) along[r * columns + c] = d = source[r * columns + c] ? 0 : Math.min(d + 1, far);
    for (let r = rows - 1, d = far; r >= 0; r--) {
      const i = r * columns + c;
      along[i] = d = Math.min(along[i], d + 1);
    }
  }
  const place = new Int32Array(columns), from = new Float64Array(columns + 1);
  for (let r = 0; r < rows; r++) {
    const start = r * columns;
    const height = (c) => along[start + c] ** 2 + c * c;
    const meet = (a, b) => (height(b) - height(a)) / (2 * (b - a));
    let top = 0;
    place[0] = 0;
    from[0] = -Infinity;
    for (let c = 1; c < columns; c++) {
      while (meet(place[top], c) <= from[top]) top--;
      place[++top] = c;
      from[top] = meet(place[top - 1], c);
    }
    from[top + 1] = Infinity;
    for (let c = 0, k = 0; c < columns; c++) {
      while (from[k + 1] < c) k++;
      result[start + c] = (c - place[k]) ** 2 + along[start + place[k]] ** 2;
    }
  }
  return result;
}

/* Distance in px, float32, negative inside, clipped at the truncation; boundary 0 is "inner", 1 is "half_pixel". */
function signedDistance(mask, rows, columns, boundary, truncation) {
  const distance = new Float32Array(mask.length);
  const clip = (d) => clamp(d, -truncation, truncation);
  if (boundary === 1) {
    const outside = squaredDistance(mask, rows, columns);
    const inside = squaredDistance(mask.map((m) => 1 - m), rows, columns);
    for (let i = 0; i < mask.length; i++) {
      distance[i] = clip(mask[i] ? 0.5 - Math.sqrt(inside[i]) : Math.sqrt(outside[i]) - 0.5);
    }
    return distance;
  }
  const edge = new Uint8Array(mask.length);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) {
      edge[i] = mask[i] && ((r > 0 && !mask[i - columns]) || (r < rows - 1 && !mask[i + columns])
        || (c > 0 && !mask[i - 1]) || (c < columns - 1 && !mask[i + 1])) ? 1 : 0;
    }
  }
  const squared = squaredDistance(edge, rows, columns);
  for (let i = 0; i < mask.length; i++) distance[i] = clip(mask[i] && !edge[i] ? -Math.sqrt(squared[i]) : Math.sqrt(squared[i]));
  return distance;
}

// ---- a part of an image: what pictures of the same size show when one of them is enlarged

class View {
  constructor(panel, rows, columns) { Object.assign(this, { panel, rows, columns, pictures: [], scale: 1, x: 0, y: 0 }); }

  /* Show `scale` times enlarged what begins at column x and row y; no further than the image goes. */
  move(scale, x, y) {
    this.scale = clamp(scale, 1, Math.max(2, Math.min(this.rows, this.columns) / 8));
    this.x = clamp(x, 0, this.columns - this.columns / this.scale);
    this.y = clamp(y, 0, this.rows - this.rows / this.scale);
    for (const picture of this.pictures) picture.enlarge();
    this.panel.root.dataset.scale = this.scale.toFixed(2);
    this.panel.redraw();
  }

  /* Enlarge by a factor; the place at [row, column] stays where it is. */
  zoom(factor, [row, column]) {
    const before = this.scale, scale = clamp(before * factor, 1, Math.max(2, Math.min(this.rows, this.columns) / 8));
    this.move(scale, column - ((column - this.x) * before) / scale, row - ((row - this.y) * before) / scale);
  }

  /* The wheel (in a notebook only while the panel has the focus: the page scrolls), a double click, a drag, and + - 0. */
  follow(picture) {
    this.pictures.push(picture);
    picture.view = this;
    const { stack } = picture, { panel } = this;
    stack.addEventListener("wheel", (event) => {
      if (!panel.saved && !panel.root.contains(document.activeElement)) return;
      if (this.scale === 1 && event.deltaY > 0) return;
      event.preventDefault();
      this.zoom(2 ** (-clamp(event.deltaY, -240, 240) / 240), picture.place(event));
    }, { passive: false });
    stack.addEventListener("dblclick", (event) => {
      event.preventDefault();
      if (event.shiftKey) this.move(1, 0, 0);
      else this.zoom(2, picture.place(event));
    });
    let held = null;
    stack.addEventListener("pointerdown", (event) => { held = this.scale > 1 ? picture.place(event) : null; });
    stack.addEventListener("pointermove", (event) => {
      if (!held || !(event.buttons & 1)) return;
      const [row, column] = picture.place(event);
      stack.setPointerCapture(event.pointerId);
      this.move(this.scale, this.x + held[1] - column, this.y + held[0] - row);
    });
  }

  keys() {
    const middle = () => [this.y + this.rows / this.scale / 2, this.x + this.columns / this.scale / 2];
    return { "+": () => this.zoom(1.5, middle()), "=": () => this.zoom(1.5, middle()), "-": () => this.zoom(1 / 1.5, middle()), 0: () => this.move(1, 0, 0) };
  }
}

// ---- pictures: a raster, a second one above it for overlays, and a canvas of finer lines

class Picture {
  constructor(panel, parent, name, title, [rows, columns]) {
    Object.assign(this, { panel, rows, columns });
    this.canvas = this.raster(name, title);
    this.sheet = element("div", { class: "sheet" }, this.canvas); // moved and enlarged by a view
    this.stack = element("div", { class: "stack" }, this.sheet);
    this.stack.style.maxWidth = `${(640 * columns) / rows}px`; // a tall image is at most 640 px high
    this.title = element("span", {}, title);
    this.figure = element("figure", {}, element("figcaption", {}, this.title), this.stack);
    parent.append(this.figure);
  }

  raster(name, title) {
    const canvas = element("canvas", { width: this.columns, height: this.rows, "data-view": name, role: "img", "aria-label": title });
    canvas.pen = canvas.getContext("2d", { willReadFrequently: true });
    canvas.image = canvas.pen.createImageData(this.columns, this.rows);
    canvas.pixels = new Uint32Array(canvas.image.data.buffer);
    return canvas;
  }

  get pixels() { return this.canvas.pixels; }

  put(canvas = this.canvas) { canvas.pen.putImageData(canvas.image, 0, 0); }

  /* Colour numbers, one for each pixel. */
  lookUp(numbers, colours) {
    const { pixels } = this;
    for (let i = 0; i < pixels.length; i++) pixels[i] = colours[numbers[i]];
    this.put();
  }

  /* A grey or RGB image, uint8, shape (row, column) or (row, column, 3). */
  photograph({ shape, values }) {
    const step = shape.length === 3 ? 3 : 1;
    for (let i = 0; i < this.pixels.length; i++) {
      const [r, g, b] = step === 3 ? [values[3 * i], values[3 * i + 1], values[3 * i + 2]] : [values[i], values[i], values[i]];
      this.pixels[i] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    this.put();
  }

  /* The raster above the first one; its opacity is that of the element. */
  overlay(name, title) {
    const canvas = this.raster(name, title);
    this.sheet.append(canvas);
    return canvas;
  }

  enlarge() {
    const { scale, x, y } = this.view;
    this.sheet.style.transform = `scale(${scale}) translate(${(-100 * x) / this.columns}%, ${(-100 * y) / this.rows}%)`;
  }

  /* The pen of the lines in pixels of the image, whatever part of it is shown. */
  aim() {
    const { scale, x, y } = this.view ?? { scale: 1, x: 0, y: 0 }, size = this.zoom * scale;
    this.fine.setTransform(size, 0, 0, size, -x * size, -y * size);
    return scale;
  }

  get fine() {
    if (!this.lines) {
      this.zoom = clamp(Math.ceil(720 / this.columns), 1, 8);
      this.lines = element("canvas", { width: this.columns * this.zoom, height: this.rows * this.zoom, class: "lines", "aria-hidden": "true" });
      this.stack.append(this.lines);
    }
    return this.lines.getContext("2d");
  }

  clearLines() {
    const pen = this.fine;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.lines.width, this.lines.height);
  }

  /* A light line on a dark one, seen on every ground. */
  stroke(path, light = "#ffe14d", width = 1, dash = []) {
    const pen = this.fine, scale = this.aim();
    pen.setLineDash(dash);
    for (const [ink, size] of [["#101010", 6.5], [light, 3]]) {
      pen.strokeStyle = ink;
      pen.lineWidth = (width * size * this.columns) / (720 * scale);
      pen.stroke(path);
    }
  }

  /* A word at a place, as large as the page's letters. */
  write(word, [row, column], light = "#ffffff") {
    const pen = this.fine, scale = this.aim(), size = (11 * this.columns) / ((this.stack.clientWidth || 720) * scale);
    Object.assign(pen, { font: `600 ${size}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle", lineJoin: "round" });
    pen.setLineDash([]);
    Object.assign(pen, { strokeStyle: "#101010", lineWidth: size / 4, fillStyle: light });
    pen.strokeText(word, column, row);
    pen.fillText(word, column, row);
  }

  /* The pixel edges between inside and outside; the border of the image is not an edge. */
  outline(inside, light, dash) {
    const { rows, columns } = this, path = new Path2D();
    for (let r = 0, i = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++, i++) {
        if (c + 1 < columns && !inside[i] !== !inside[i + 1]) { path.moveTo(c + 1, r); path.lineTo(c + 1, r + 1); }
        if (r + 1 < rows && !inside[i] !== !inside[i + columns]) { path.moveTo(c, r + 1); path.lineTo(c + 1, r + 1); }
      }
    }
    this.stroke(path, light, 1, dash);
  }

  /* The line where a field has the value `level`, straight within each square of four pixel centres. */
  contour(field, level, light) {
    const { rows, columns } = this, path = new Path2D();
    const cut = (a, b) => (level - a) / (b - a);
    for (let r = 0; r + 1 < rows; r++) {
      for (let c = 0; c + 1 < columns; c++) {
        const i = r * columns + c;
        const a = field[i], b = field[i + 1], d = field[i + columns], e = field[i + columns + 1];
        const count = (a <= level) + (b <= level) + (d <= level) + (e <= level);
        if (count === 0 || count === 4) continue;
        const points = [];
        if (a <= level !== b <= level) points.push([c + cut(a, b), r]);
        if (b <= level !== e <= level) points.push([c + 1, r + cut(b, e)]);
        if (d <= level !== e <= level) points.push([c + cut(d, e), r + 1]);
        if (a <= level !== d <= level) points.push([c, r + cut(a, d)]);
        for (let k = 0; k + 1 < points.length; k += 2) {
          path.moveTo(points[k][0] + 0.5, points[k][1] + 0.5);
          path.lineTo(points[k + 1][0] + 0.5, points[k + 1][1] + 0.5);
        }
      }
    }
    this.stroke(path, light);
  }

  cross([row, column], light = "#7ce0ff") {
    const path = new Path2D(), [x, y] = [column + 0.5, row + 0.5], gap = Math.max(2.5, this.columns / 40);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(x + dx * gap, y + dy * gap);
      path.lineTo(x + dx * this.columns, y + dy * this.rows);
    }
    this.stroke(path, light, 0.7);
  }

  /* Where the pointer is: [row, column] with fractions. */
  place(event) {
    const box = this.sheet.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * this.rows, ((event.clientX - box.left) / box.width) * this.columns];
  }

  /* Which pixel lies under the pointer: [row, column]. */
  pixel(event) {
    const [row, column] = this.place(event);
    return [clamp(Math.floor(row), 0, this.rows - 1), clamp(Math.floor(column), 0, this.columns - 1)];
  }

  /* The colour bar below; `update(low, high)` changes its ends. */
  bar(array, low, high, label) {
    const now = [low, high, label].join();
    if (this.barNow === now) return;
    this.barNow = now;
    const stops = Array.from({ length: 17 }, (_, k) => `rgb(${array.values.subarray(3 * Math.min(255, 16 * k), 3 * Math.min(255, 16 * k) + 3).join()})`);
    this.ends ??= element("div", { class: "bar" }, element("span"), element("i"), element("span"), element("b"));
    this.ends.children[1].style.background = `linear-gradient(to right, ${stops.join()})`;
    [0, 2, 3].forEach((place, k) => { this.ends.children[place].textContent = [low, high, label][k].replace("-", "−"); });
    this.figure.append(this.ends);
  }
}

// ---- plots: lines, bars and marks, drawn as SVG in the colours of the page

const INKS = ["var(--ink-0)", "var(--ink-1)", "var(--ink-2)", "var(--ink-3)"], DASHES = ["", "7 3", "2 3", "9 3 2 3"];

class Plot {
  constructor(parent, name, title) {
    this.title = element("span", {}, title);
    this.body = element("div", { class: "plot", "data-view": name, role: "img", "aria-label": title });
    parent.append(element("figure", {}, element("figcaption", {}, this.title), this.body));
  }

  /* x and y: {low, high, label, log}; lines: [{x, y, label}]; bars: [{from, to, height}]; marks: [{x, label, dash}]. */
  show({ x, y, lines = [], bars = [], marks = [] }) {
    this.body.setAttribute("aria-label", this.title.textContent);
    const width = clamp((this.body.room ??= this.body.clientWidth) || 360, 170, 430); // letters keep their size, whatever the width
    const [left, right, top, bottom] = [52, width - 9, 8, 150];
    const unit = (axis, value) => axis.log ? (Math.log10(Math.max(value, axis.low)) - Math.log10(axis.low)) / (Math.log10(axis.high) - Math.log10(axis.low))
      : (value - axis.low) / (axis.high - axis.low || 1);
    const X = (value) => (left + clamp(unit(x, value), 0, 1) * (right - left)).toFixed(1);
    const Y = (value) => (bottom - clamp(unit(y, value), 0, 1) * (bottom - top)).toFixed(1);
    const out = [`<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}" class="frame"/>`];
    for (const at of ticks(x)) out.push(`<path class="tick" d="M${X(at)} ${bottom}v4"/><text x="${X(at)}" y="${bottom + 15}" text-anchor="middle">${+at.toPrecision(3)}</text>`);
    for (const at of ticks(y)) out.push(`<path class="tick" d="M${left} ${Y(at)}h-4"/><text x="${left - 7}" y="${+Y(at) + 4}" text-anchor="end">${+at.toPrecision(3)}</text>`);
    for (const one of bars) out.push(`<rect class="bars" x="${X(one.from)}" width="${Math.max(1, X(one.to) - X(one.from) - 1)}" y="${Y(one.height)}" height="${bottom - Y(one.height)}"/>`);
    lines.forEach((line, k) => {
      const path = Array.from(line.x, (at, i) => (Number.isFinite(line.y[i]) ? `${Number.isFinite(line.y[i - 1]) ? "L" : "M"}${X(at)} ${Y(line.y[i])}` : "")).join("");
      out.push(`<path class="line" d="${path}" style="stroke:${INKS[k]}" stroke-dasharray="${DASHES[k]}"/>`);
    });
    const middle = (left + right) / 2;
    out.push(`<text x="${middle}" y="${bottom + 31}" text-anchor="middle">${x.label}</text>`);
    out.push(`<text transform="translate(11 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${y.label}</text>`);
    const legend = lines.filter((line) => line.label).map((line, k) => `<span><svg width="26" height="8"><path class="line" d="M0 4H26" style="stroke:${INKS[k]}" stroke-dasharray="${DASHES[k]}"/></svg> ${line.label}</span>`);
    for (const mark of marks) if (mark.label) legend.push(`<span><svg width="26" height="12"><path class="mark" d="M13 0V12" stroke-dasharray="${mark.dash ?? ""}"/></svg> ${mark.label}</span>`);
    const still = `<svg width="${width}" height="186">${out.join("")}<g></g></svg><div class="legend">${legend.join("")}</div>`;
    if (this.still !== still) this.body.innerHTML = this.still = still; // while a slider moves, mostly the marks do
    this.body.querySelector("g").innerHTML = marks.map((mark) => `<path class="mark" d="M${X(mark.x)} ${top}V${bottom}" stroke-dasharray="${mark.dash ?? ""}"/>`).join("");
  }
}

function ticks(axis) {
  if (axis.log) {
    const powers = [];
    for (let p = Math.ceil(Math.log10(axis.low) - 1e-9); p <= Math.log10(axis.high) + 1e-9; p++) powers.push(10 ** p);
    return powers;
  }
  const rough = (axis.high - axis.low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((k) => k * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(axis.low / step - 1e-9) * step; at <= axis.high + 1e-9 * step; at += step) found.push(Math.abs(at) < 1e-12 ? 0 : at);
  return found;
}

// ---- scenes

const SCENES = {};

/* 1. A mask under the brush, its signed distance, and the mask that a threshold gives back. */
SCENES.paint = (panel) => {
  const shape = panel.settings.shape, [rows, columns] = shape;
  const grid = panel.grid(3);
  const [hand, map, back] = [["mask", "painted mask"], ["distance", "signed distance"], ["thresholded", "thresholded mask"]]
    .map(([name, title]) => new Picture(panel, grid, name, title, shape));
  const undo = element("button", { type: "button" }, "Undo"), clear = element("button", { type: "button" }, "Clear");
  panel.root.append(element("div", { class: "buttons" }, undo, clear, panel.says));
  const received = () => new Uint8Array(unpacked({ shape, dtype: "uint8", bytes: panel.get("mask") }).values);
  const inside = new Uint8Array(rows * columns);
  let mask = received(), before = [], last = null, cursor = [rows >> 1, columns >> 1];

  const stamp = (row, column, value) => {
    const radius = panel.get("brush");
    for (let r = Math.max(0, row - radius); r <= Math.min(rows - 1, row + radius); r++) {
      for (let c = Math.max(0, column - radius); c <= Math.min(columns - 1, column + radius); c++) {
        if ((r - row) ** 2 + (c - column) ** 2 <= radius * radius) mask[r * columns + c] = value;
      }
    }
  };
  const line = ([r0, c0], [r1, c1], value) => {
    const steps = Math.max(1, Math.abs(r1 - r0), Math.abs(c1 - c0));
    for (let k = 0; k <= steps; k++) stamp(Math.round(r0 + ((r1 - r0) * k) / steps), Math.round(c0 + ((c1 - c0) * k) / steps), value);
  };
  const remember = () => { before = [...before.slice(-30), mask.slice()]; };
  const tell = () => panel.set("mask", new DataView(mask.slice().buffer));
  const value = (event) => (panel.get("erase") || event.shiftKey || event.buttons === 2 ? 0 : 1);
  const canvas = hand.stack;
  canvas.classList.add("brush");
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    remember();
    cursor = last = hand.pixel(event);
    line(last, last, value(event));
    panel.redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = hand.pixel(event);
    if (last) {
      for (const at of event.getCoalescedEvents?.() ?? [event]) { line(last, hand.pixel(at), value(event)); last = hand.pixel(at); }
    }
    panel.redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (last) { last = null; tell(); } });
  const takeBack = () => { if (before.length) { mask = before.pop(); tell(); panel.redraw(); } };
  undo.addEventListener("click", takeBack);
  clear.addEventListener("click", () => { remember(); mask.fill(0); tell(); panel.redraw(); });
  panel.onChange("mask", () => { if (!last) mask = received(); });
  const move = (dr, dc) => { cursor = [clamp(cursor[0] + dr, 0, rows - 1), clamp(cursor[1] + dc, 0, columns - 1)]; };
  panel.keys = {
    ArrowUp: () => move(-2, 0), ArrowDown: () => move(2, 0), ArrowLeft: () => move(0, -2), ArrowRight: () => move(0, 2),
    " ": (event) => { remember(); line(cursor, cursor, value(event)); tell(); }, z: takeBack,
  };
  const colours = table(panel.data.distance), black = table(panel.data.mask);
  return () => {
    const truncation = panel.get("truncation"), threshold = panel.get("threshold");
    const distance = signedDistance(mask, rows, columns, panel.get("boundary"), truncation);
    let painted = 0, kept = 0, lost = 0;
    for (let i = 0; i < mask.length; i++) {
      inside[i] = distance[i] <= threshold ? 1 : 0;
      painted += mask[i];
      kept += inside[i];
      lost += mask[i] !== inside[i];
    }
    colourMask(hand.pixels, mask, black);
    colour(map.pixels, distance, colours, -truncation, truncation);
    colourMask(back.pixels, inside, black);
    for (const picture of [hand, map, back]) picture.put();
    hand.clearLines();
    const ring = new Path2D();
    ring.arc(cursor[1] + 0.5, cursor[0] + 0.5, panel.get("brush") + 0.5, 0, 2 * Math.PI);
    hand.stroke(ring, panel.get("erase") ? "#ff9ecb" : "#7ce0ff", 0.7);
    map.clearLines();
    map.contour(distance, 0, "#ffffff");
    map.bar(panel.data.distance, `−${truncation}`, `${truncation} px`, "distance");
    panel.say(`Painted ${painted} px², thresholded at ${threshold.toFixed(2)} px: ${kept} px²; ${lost} pixels differ.`);
  };
};

/* 2. The same noise on a signed distance and on a mask, at any diffusion time. */
SCENES.corruption = (panel) => {
  const { clean, noise, levels, damage } = panel.data, [rows, columns] = noise.shape;
  const { frames, schedules, truncation, data_scale: size } = panel.settings;
  const grid = panel.grid(3);
  grid.classList.add("pairs");
  const pictures = [["field-sdf", "noisy distance"], ["field-binary", "noisy mask values"]].map(([name, title]) => new Picture(panel, grid, name, title, [rows, columns]));
  const torn = new Plot(grid, "fragments", "how many fragments");
  const masks = [["mask-sdf", "its mask"], ["mask-binary", "its mask"]].map(([name, title]) => new Picture(panel, grid, name, title, [rows, columns]));
  const away = new Plot(grid, "displacement", "how far from the edge");
  panel.root.append(panel.says);
  const colours = table(panel.data.distance), black = table(panel.data.mask);
  const noisy = new Float32Array(rows * columns), inside = new Uint8Array(rows * columns);
  const times = Array.from({ length: frames }, (_, k) => k / (frames - 1));
  panel.plays("time", frames);
  return () => {
    const frame = Math.round(panel.get("time") * (frames - 1)), [schedule, image] = [panel.get("schedule"), panel.get("image")];
    const [sigma, scale] = part(levels, schedule, frame), z = noise.values;
    const end = size + 2 * sigma; // of the scale
    for (const target of [0, 1]) {
      const field = part(clean, image, target);
      for (let i = 0; i < noisy.length; i++) noisy[i] = field[i] + Math.fround(sigma * z[i]);
      for (let i = 0; i < noisy.length; i++) inside[i] = noisy[i] <= 0 ? 1 : 0;
      colour(pictures[target].pixels, noisy, colours, -end, end);
      colourMask(masks[target].pixels, inside, black);
      pictures[target].put();
      masks[target].put();
      const shown = ((scale * end * truncation) / size).toPrecision(3);
      pictures[target].bar(panel.data.distance, `−${shown}`, `${shown} px`, target ? "value" : "distance");
    }
    const curves = (measure) => [0, 1].map((target) => ({ x: times, y: part(damage, schedule, image, measure, target), label: ["distance", "mask"][target] }));
    const highest = (lines) => Math.max(1, ...lines.flatMap((line) => Array.from(line.y)).filter(Number.isFinite));
    const time = { low: 0, high: 1, label: "diffusion time t" }, marks = [{ x: times[frame] }], [pieces, lengths] = [curves(0), curves(1)];
    torn.show({ x: time, y: { low: 0.01, high: highest(pieces), label: "fragments / object", log: true }, lines: pieces, marks });
    away.show({ x: time, y: { low: 0, high: highest(lengths), label: "false pixels to edge (px)" }, lines: lengths, marks });
    const pixels = (sigma * truncation) / size;
    panel.say(`${schedules[schedule]} at t = ${times[frame].toFixed(3)}: noise of σ = ${sigma.toPrecision(3)} (${pixels.toPrecision(3)} px); `
      + `${pieces[0].y[frame].toPrecision(2)} fragments per object in the distance's mask, ${pieces[1].y[frame].toPrecision(2)} in the binary one; `
      + `false pixels lie ${[0, 1].map((k) => (Number.isFinite(lengths[k].y[frame]) ? `${lengths[k].y[frame].toFixed(1)} px` : "(none)")).join(" and ")} from the edge on average.`);
  };
};

/* Frames of any kind, held as colour numbers. */
SCENES.stack = (panel) => {
  const { frames } = panel.data, [count, rows, columns] = frames.shape;
  const picture = new Picture(panel, panel.grid(1), "frame", panel.settings.title, [rows, columns]);
  panel.root.append(panel.says);
  const colours = table(panel.data.colours);
  picture.bar(panel.data.colours, ...panel.settings.bar);
  panel.plays("frame", count, true);
  return () => {
    const frame = panel.get("frame");
    picture.lookUp(part(frames, frame), colours);
    panel.say(panel.settings.labels[frame] ?? `frame ${frame}`);
  };
};

/* 3. Members on their way from noise to mask, the denoised estimate below each state. */
SCENES.reverse = (panel) => {
  const { shape, members, methods, truncation, data_scale: size } = panel.settings;
  const grid = panel.grid(members);
  const row = (kind) => Array.from({ length: members }, (_, k) => new Picture(panel, grid, `${kind}-${k}`, `${kind} ${k}`, shape));
  const states = row("state"), estimates = row("denoised");
  panel.root.append(panel.says);
  const colours = table(panel.data.distance), inside = new Uint8Array(shape[0] * shape[1]);
  for (const picture of [states[0], estimates[0]]) picture.bar(panel.data.distance, "inside", "outside", "distance");
  const chosen = () => methods[panel.get("method")];
  panel.plays("progress", () => panel.runs[chosen()]?.state.shape[0] ?? 1); // one frame, and so no step, until the run is there
  return () => {
    const run = panel.runs[chosen()];
    if (!run) {
      const there = Object.keys(panel.runs).join(", ");
      panel.say(panel.saved ? `${chosen()}: not computed before this page was saved. Here are: ${there}.` : `${chosen()}: being computed …`);
      return;
    }
    const last = run.state.shape[0] - 1, frame = Math.round(panel.get("progress") * last);
    for (let k = 0; k < members; k++) {
      for (const [kind, picture] of [["state", states[k]], ["denoised", estimates[k]]]) {
        const codes = part(run[kind], frame, k);
        picture.lookUp(codes, colours);
        if (kind === "denoised") {
          for (let i = 0; i < codes.length; i++) inside[i] = codes[i] < 128 ? 1 : 0;
          picture.clearLines();
          picture.outline(inside);
        }
      }
    }
    const sigma = run.noise_level.values[frame], done = run.calls.values[frame];
    panel.say(`${chosen()}: ${frame === last ? "finished" : `step ${frame} of ${last}`}, σ = ${sigma.toPrecision(3)} (${((sigma * truncation) / size).toPrecision(3)} px), `
      + `after ${done} of ${run.calls.values[last]} network calls per member; all ${members} members took ${run.seconds.values[0].toFixed(2)} s.`);
  };
};

/* The objects of a mask: `labels` (row, column), 0 outside; `facts` (object, column), NaN where nothing is known. */
class Objects {
  constructor(picture, labels, facts, { columns, units, doubt }) {
    const at = Object.fromEntries(columns.map((name, k) => [name, k]));
    const rows = Array.from({ length: facts.shape[0] }, (_, k) => part(facts, k));
    Object.assign(this, { picture, labels: labels.values, rows, columns, units, at, doubt });
    this.exists = Float32Array.from(this.labels, (label) => (label ? rows[label - 1][at.exists] : 0));
    this.doubtful = rows.filter((row) => row[at.exists] < doubt).length;
    const [height, width] = labels.shape;
    this.paths = [new Path2D(), new Path2D()]; // certain, doubtful: an edge belongs to the less certain of its two objects
    const edge = (a, b, from, to) => {
      if (a === b) return;
      const path = this.paths[[a, b].some((label) => label && rows[label - 1][at.exists] < doubt) ? 1 : 0];
      path.moveTo(...from);
      path.lineTo(...to);
    };
    for (let r = 0, i = 0; r < height; r++) {
      for (let c = 0; c < width; c++, i++) {
        if (c + 1 < width) edge(this.labels[i], this.labels[i + 1], [c + 1, r], [c + 1, r + 1]);
        if (r + 1 < height) edge(this.labels[i], this.labels[i + width], [c, r + 1], [c + 1, r + 1]);
      }
    }
  }

  get sentence() { return `${this.rows.length}, of which ${this.doubtful} doubtful (dashed; P(exists) < ${this.doubt})`; }

  draw(view) {
    const { picture, at } = this;
    picture.stroke(this.paths[0]);
    picture.stroke(this.paths[1], "#ffb347", 1, [0.55, 0.45]); // of each pixel edge
    const room = (22 * picture.columns) / ((picture.stack.clientWidth || 720) * view.scale); // px that a number takes
    this.rows.forEach((row, k) => {
      if (Math.sqrt(row[at.cells]) > room) picture.write(k + 1, [row[at.row], row[at.column]]);
    });
  }

  /* What is known of the object at a pixel. */
  say(place) {
    const label = this.labels[place];
    if (!label) return this.rows.length ? "No object at this pixel. Click an object to read its numbers; enlarge the image to see the numbers of all." : "The mask holds no object.";
    const read = (name) => {
      const value = this.rows[label - 1][this.at[name]], unit = this.units[this.at[name]];
      return Number.isFinite(value) ? `${+value.toPrecision(3)}${unit === "1" ? "" : ` ${unit}`}` : "unknown";
    };
    const { at } = this, said = [`P(exists) ${read("exists")}`, `area ${read("area")} (members differ by ${read("area_std")})`, `split ${read("split")}`, `merged ${read("merged")}`, `margin ${read("margin")}`];
    for (const name of this.columns) if (!["exists", "area", "area_std", "split", "merged", "margin", "row", "column", "cells"].includes(name)) said.push(`${name.replaceAll("_", " ")} ${read(name)}`);
    return `Object ${label}: ${said.join(", ")}.`;
  }
}

/* 4. An ensemble over its image: maps, one pixel's distribution, and a margin. */
SCENES.ensemble = (panel) => {
  const { image, distance, mean, std, truth, true_distance: trueDistance, labels, facts } = panel.data;
  const [members, rows, columns] = distance.shape, count = rows * columns, { truncation, reach } = panel.settings;
  const wide = panel.saved, grid = panel.grid(wide ? 1 : 2), side = element("div", { class: "side" });
  const picture = new Picture(panel, grid, "image", "image", [rows, columns]);
  if (wide) { // a page has room: the image is as wide as the window, and not higher
    panel.root.classList.add("wide");
    grid.style.maxWidth = "none";
    picture.stack.style.maxWidth = `calc(${(74 * columns) / rows}vh)`;
  }
  picture.photograph(image);
  const view = new View(panel, rows, columns), objects = new Objects(picture, labels, facts, panel.settings);
  view.follow(picture);
  const over = picture.overlay("overlay", "overlay");
  if (wide) grid.append(panel.says); // beside what it speaks of
  grid.append(side);
  const histogram = new Plot(side, "histogram", "members at the pixel"), trade = new Plot(side, "margin", "what a margin covers and costs");
  if (!wide) panel.root.append(panel.says);
  const names = ["mean distance", "spread of the distance", "P(object)", "member", "P(exists) of each object"];
  const tables = [panel.data.distance_colours, panel.data.spread, panel.data.probability, panel.data.distance_colours, panel.data.probability];
  const colours = tables.map(table), highest = std.values.reduce((a, b) => Math.max(a, b), 0) || 1;
  const share = new Float32Array(count), agree = new Uint16Array(count), toMask = new Float32Array(count), inside = new Uint8Array(count), grown = new Uint8Array(count);
  const STEP = 0.2, margins = Array.from({ length: 51 }, (_, k) => k * STEP), hit = new Float64Array(52), miss = new Float64Array(52);
  let at, sharedAt, object; // what was computed last, and for which threshold
  picture.stack.addEventListener("pointerdown", (event) => panel.set("pixel", picture.pixel(event)));
  panel.points(rows, columns, () => { over.hidden = picture.lines.hidden = !over.hidden; }); // the title says so
  Object.assign(panel.keys, view.keys());
  const judgeMembers = (threshold) => {
    agree.fill(0);
    for (let k = 0; k < members; k++) {
      const one = part(distance, k);
      for (let p = 0; p < count; p++) agree[p] += one[p] <= threshold ? 1 : 0;
    }
    for (let p = 0; p < count; p++) share[p] = agree[p] / members;
    sharedAt = threshold;
  };
  /* Of the true object (without a truth: of the expected one) the share that each margin covers, and the area outside it. */
  const judge = (threshold) => {
    for (let p = 0; p < count; p++) inside[p] = mean.values[p] <= threshold ? 1 : 0;
    const squared = squaredDistance(inside, rows, columns);
    for (let p = 0; p < count; p++) toMask[p] = Math.sqrt(squared[p]) - 0.5; // a margin is not negative: within the mask anything below 0 will do
    object = 0;
    hit.fill(0);
    miss.fill(0);
    for (let p = 0; p < count; p++) {
      const weight = truth ? truth.values[p] : share[p], place = clamp(Math.ceil(toMask[p] / STEP - 1e-9), 0, hit.length - 1);
      object += weight;
      hit[place] += weight;
      miss[place] += 1 - weight;
    }
    for (let k = 1; k < hit.length - 1; k++) { hit[k] += hit[k - 1]; miss[k] += miss[k - 1]; }
    at = threshold;
  };
  return () => {
    const threshold = panel.get("threshold"), margin = panel.get("margin"), pixel = panel.get("pixel"), shown = panel.get("shown");
    if (threshold !== sharedAt && (shown === 2 || !truth)) judgeMembers(threshold);
    if (threshold !== at) judge(threshold);
    const member = part(distance, panel.get("member"));
    const [values, low, high] = [[mean.values, -reach, reach], [std.values, 0, highest], [share, 0, 1], [member, -truncation, truncation], [objects.exists, 0, 1]][shown];
    colour(over.pixels, values, colours[shown], low, high);
    picture.put(over);
    over.style.opacity = panel.get("opacity");
    if (shown === 4) picture.title.textContent = `objects at the file's threshold: ${objects.sentence}`;
    else picture.title.textContent = shown === 3 ? `member ${panel.get("member")}, outlined at ${threshold.toFixed(2)} px` : `${names[shown]}; outlined: mask of the mean${margin ? `, and ${margin.toFixed(1)} px of margin` : ""}`;
    if (over.hidden) picture.title.textContent = "image alone (space shows the overlay)";
    picture.bar(tables[shown], low.toPrecision(2), `${high.toPrecision(2)}${shown === 2 || shown === 4 ? "" : " px"}`, names[shown]);
    picture.clearLines();
    if (shown === 3) for (let p = 0; p < count; p++) grown[p] = member[p] <= threshold ? 1 : 0;
    if (shown === 4) objects.draw(view);
    else picture.outline(shown === 3 ? grown : inside);
    if (margin && shown < 3) { for (let p = 0; p < count; p++) grown[p] = toMask[p] <= margin ? 1 : 0; picture.outline(grown, "#ffffff", [1, 1]); }
    picture.cross(pixel);

    const place = pixel[0] * columns + pixel[1], bins = 24, heights = new Array(bins).fill(0);
    const here = Array.from({ length: members }, (_, k) => distance.values[k * count + place]);
    for (const one of here) heights[clamp(Math.floor(((one + truncation) / (2 * truncation)) * bins), 0, bins - 1)]++;
    const edge = (k) => -truncation + (2 * truncation * k) / bins;
    const marks = [{ x: threshold, label: "threshold", dash: "5 3" }];
    if (trueDistance) marks.push({ x: trueDistance.values[place], label: "truth" });
    histogram.title.textContent = `pixel (${pixel}): ${here.filter((one) => one <= threshold).length} of ${members} members say object`;
    histogram.show({ x: { low: -truncation, high: truncation, label: "distance (px)" }, y: { low: 0, high: members, label: "members" },
      bars: heights.map((height, k) => ({ from: edge(k), to: edge(k + 1), height })).filter((one) => one.height), marks });

    const lines = [[hit, "object covered"], [miss, "area outside it"]].map(([sums, label]) => ({ x: margins, y: margins.map((_, k) => sums[k] / object), label }));
    const [caught, extra] = lines.map((line) => line.y[Math.round(margin / STEP)]), per = (value) => `${(100 * value).toFixed(1)} %`;
    trade.show({ x: { low: 0, high: 10, label: "margin (px)" }, y: { low: 0, high: Math.max(1, ...lines[1].y.filter(Number.isFinite)), label: "share of the object" }, lines, marks: [{ x: margin }] });
    const whole = truth ? "the true object" : "the expected object (the sum of P(object))";
    if (shown === 4) panel.say(objects.say(place));
    else if (!object) panel.say(`There is nothing to cover: ${truth ? "the truth holds no object" : "no member sees an object at this threshold"}.`);
    else panel.say(`The mask of the mean${margin ? `, grown by ${margin.toFixed(1)} px,` : ""} covers ${per(caught)} of ${whole}; outside the object it covers another ${per(extra)} of the object's area.`);
  };
};

/* 5. Truth, error and spread side by side; keep the most certain pixels and see which error remains. */
SCENES.error = (panel) => {
  const { codes, truth, mask, spread, fewer, upto, curves } = panel.data, [rows, columns] = codes.shape, { maps, units, signs, readings } = panel.settings;
  const grid = panel.grid(3);
  const [left, middle, right] = [["truth", "truth, prediction outlined"], ["error", "error"], ["spread", "uncertainty"]].map(([name, title]) => new Picture(panel, grid, name, title, [rows, columns]));
  const below = panel.grid(2), plot = new Plot(below, "remaining", "error among the pixels kept");
  below.append(element("div", {}, panel.says, element("div", { class: "legend keys" })));
  const black = table(panel.data.mask_colours), colours = table(panel.data.spread_colours), kinds = panel.data.error_colours.values;
  const keys = below.querySelector(".keys");
  ["right: background", "right: object", "false positive", "false negative"].forEach((name, k) => {
    const patch = element("i");
    patch.style.background = `rgb(${kinds.subarray(3 * k, 3 * k + 3).join()})`;
    keys.append(element("span", {}, patch, ` ${name}`));
  });
  const dull = element("i");
  dull.style.background = "linear-gradient(90deg, #979fa0 50%, #6f6377 50%)";
  keys.append(element("span", {}, dull, " left out (dimmed)"));
  const ink = Uint32Array.from({ length: 4 }, (_, k) => (255 << 24) | (kinds[3 * k + 2] << 16) | (kinds[3 * k + 1] << 8) | kinds[3 * k]);
  const bases = maps.map((_, k) => part(spread, k).reduce((a, b) => Math.min(a, b), Infinity));
  const ends = maps.map((_, k) => Math.max(part(spread, k).reduce((a, b) => Math.max(a, b), -Infinity), bases[k] + 1e-6));
  const dimmed = (pixel) => (255 << 24) | (((pixel >>> 16 & 255) + 3 * 128) >> 2 << 16) | (((pixel >>> 8 & 255) + 3 * 128) >> 2 << 8) | (((pixel & 255) + 3 * 128) >> 2);
  const view = new View(panel, rows, columns);
  for (const picture of [left, middle, right]) {
    view.follow(picture);
    picture.stack.addEventListener("pointermove", (event) => panel.set("pixel", picture.pixel(event)));
    picture.stack.addEventListener("pointerdown", (event) => panel.set("pixel", picture.pixel(event)));
  }
  let dim = true;
  panel.points(rows, columns, () => { dim = !dim; });
  Object.assign(panel.keys, view.keys());
  const shares = Array.from({ length: curves.shape[1] }, (_, k) => k / (curves.shape[1] - 1));
  return () => {
    const chosen = panel.get("uncertainty"), keep = panel.get("keep"), pixel = panel.get("pixel");
    const [values, low, high] = [part(spread, chosen), part(fewer, chosen), part(upto, chosen)];
    colour(right.pixels, values, colours, bases[chosen], ends[chosen]);
    for (let i = 0; i < codes.values.length; i++) {
      const dropped = dim && high[i] > keep && (low[i] >= keep || (i * 0.6180339887498949) % 1 >= (keep - low[i]) / (high[i] - low[i])); // of tied pixels the share that is kept, scattered
      middle.pixels[i] = dropped ? dimmed(ink[codes.values[i]]) : ink[codes.values[i]];
      if (dropped) right.pixels[i] = dimmed(right.pixels[i]);
    }
    colourMask(left.pixels, truth.values, black);
    for (const picture of [left, middle, right]) { picture.put(); picture.clearLines(); }
    left.outline(mask.values);
    for (const picture of [left, middle, right]) picture.cross(pixel);
    right.title.textContent = maps[chosen];
    const read = (value, digits) => `${(signs[chosen] * value).toPrecision(digits)}${units[chosen] === "1" ? "" : ` ${units[chosen]}`}`;
    right.bar(panel.data.spread_colours, read(bases[chosen], 2), read(ends[chosen], 2), `${readings[chosen]}: certain → uncertain`);
    const lines = maps.map((name, k) => ({ x: shares, y: part(curves, k), label: name }));
    const highest = Math.max(...Array.from(curves.values).filter(Number.isFinite)) || 1;
    plot.show({ x: { low: 0, high: 1, label: "share of pixels kept" }, y: { low: 0, high: highest, label: "share wrong" }, lines, marks: [{ x: keep }] });
    const remaining = part(curves, chosen), place = keep * (remaining.length - 1), k = Math.min(Math.floor(place), remaining.length - 2);
    const left_over = remaining[k] + (place - k) * (remaining[k + 1] - remaining[k]), all = remaining[remaining.length - 1];
    const i = pixel[0] * columns + pixel[1], kind = ["right: background", "right: object", "false positive", "false negative"][codes.values[i]];
    panel.say(`Kept the most certain ${(100 * keep).toFixed(0)} %: ${(100 * left_over).toFixed(2)} % of them are wrong, against ${(100 * all).toFixed(2)} % of all. `
      + `Pixel (${pixel}): ${kind}, ${readings[chosen]} ${read(values[i], 3)}.`);
  };
};

/* 6. Members that the kernel draws anew while a slider moves, and spots painted on their image. */
SCENES.live = (panel) => {
  const { shape, members, steps, truncation } = panel.settings, [rows, columns] = shape, count = rows * columns;
  const grid = panel.grid(members / 2 + 1);
  grid.classList.add("pairs");
  const row = (from) => Array.from({ length: members / 2 }, (_, k) => new Picture(panel, grid, `member-${from + k}`, `member ${from + k}`, shape));
  const upper = row(0), image = new Picture(panel, grid, "image", "image: paint here", shape);
  const pictures = [...upper, ...row(members / 2)], beside = new Picture(panel, grid, "beside", "P(object)", shape);
  for (const picture of [image, beside]) picture.figure.classList.add("front");
  const undo = element("button", { type: "button" }, "Undo"), clear = element("button", { type: "button" }, "Clear");
  panel.root.append(element("div", { class: "buttons" }, undo, clear, panel.says));
  const numbers = (name, ...shape) => unpacked({ shape, dtype: "uint8", bytes: panel.get(name) });
  const state = () => [...["seed", "blend", "strength"].map((name) => panel.get(name)), ...panel.get("spots").flat()];
  const same = (a, b) => a.length === b.length && a.every((one, k) => Math.abs(one - b[k]) < 1e-6);
  const fresh = () => same(state(), panel.get("answer").state);

  // painting: the list of spots goes to the kernel, and the painted image comes back
  let cursor = [rows >> 1, columns >> 1], last = null;
  const paint = (at) => { panel.set("spots", [...panel.get("spots"), [...(last = at), panel.get("brush"), panel.get("paint")]]); };
  const stack = image.stack;
  stack.classList.add("brush");
  stack.addEventListener("pointerdown", (event) => {
    stack.setPointerCapture(event.pointerId);
    paint(cursor = image.pixel(event));
  });
  stack.addEventListener("pointermove", (event) => {
    cursor = image.pixel(event);
    if (last && Math.hypot(cursor[0] - last[0], cursor[1] - last[1]) >= Math.max(1, panel.get("brush") / 2)) paint(cursor);
    panel.redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) stack.addEventListener(end, () => { last = null; });
  const takeBack = () => panel.set("spots", panel.get("spots").slice(0, -1));
  undo.addEventListener("click", takeBack);
  clear.addEventListener("click", () => panel.set("spots", []));

  // play: from one seed's noise to the next and back, a step for each answer
  let way = 1, timer = 0;
  const step = () => {
    if (!panel.get("playing") || !fresh()) return;
    const here = Math.round(20 * panel.get("blend"));
    if (here + way > 20 || here + way < 0) way = -way;
    panel.set("blend", (here + way) / 20);
  };
  const later = () => {
    panel.says.setAttribute("aria-live", panel.get("playing") ? "off" : "polite");
    clearTimeout(timer);
    timer = setTimeout(step, 40);
  };
  for (const name of ["playing", "answer"]) panel.onChange(name, later);
  panel.leave.push(() => clearTimeout(timer));
  later();
  const move = (dr, dc) => { cursor = [clamp(cursor[0] + dr, 0, rows - 1), clamp(cursor[1] + dc, 0, columns - 1)]; };
  panel.keys = {
    ArrowUp: () => move(-2, 0), ArrowDown: () => move(2, 0), ArrowLeft: () => move(0, -2), ArrowRight: () => move(0, 2),
    Enter: () => { paint(cursor); last = null; }, z: takeBack, " ": () => panel.set("playing", !panel.get("playing")),
  };

  const distances = new Uint32Array(256), chances = table(panel.data.probability), black = table(panel.data.mask);
  colour(distances, Float32Array.from({ length: 256 }, (_, k) => (k - 128) / steps), table(panel.data.distance), -truncation, truncation);
  const inside = new Uint8Array(count), votes = new Float32Array(count);
  let before = "", stale = 0, disputed = 0;
  const show = (answer, limit, shown, aside) => {
    const frames = numbers("frames", members + 1, rows, columns), photo = numbers("photo", ...shape, ...(panel.settings.colour ? [3] : []));
    votes.fill(0);
    for (const [k, picture] of pictures.entries()) {
      const codes = part(frames, k);
      for (let i = 0; i < count; i++) votes[i] += inside[i] = codes[i] <= limit ? 1 : 0;
      if (shown === 0) picture.photograph(photo);
      else if (shown === 1) { colourMask(picture.pixels, inside, black); picture.put(); }
      else picture.lookUp(codes, distances);
      picture.clearLines();
      if (shown !== 1) picture.outline(inside);
    }
    disputed = votes.reduce((sum, one) => sum + (one > 0 && one < members ? 1 : 0), 0);
    image.photograph(photo);
    const mean = part(frames, members);
    for (let i = 0; i < count; i++) inside[i] = mean[i] <= limit ? 1 : 0;
    if (aside === 0) colour(beside.pixels, votes, chances, 0, members);
    else colourMask(beside.pixels, inside, black);
    beside.put();
    beside.clearLines();
    if (aside === 0) beside.outline(inside);
    beside.title.textContent = aside === 0 ? "P(object); mean outlined" : "mask of the mean";
    panel.root.dataset.answered = answer.number; // for the benchmark
  };
  return () => {
    const answer = panel.get("answer"), choices = [panel.get("threshold"), panel.get("shown"), panel.get("beside")];
    if (before !== (before = [answer.number, ...choices].join())) show(answer, 128 + Math.round(choices[0] * steps), choices[1], choices[2]);
    const ring = new Path2D();
    ring.arc(cursor[1] + 0.5, cursor[0] + 0.5, panel.get("brush") + 0.5, 0, 2 * Math.PI);
    image.clearLines();
    image.stroke(ring, "#7ce0ff", 0.7);
    const [seed, blend, strength] = answer.state, spots = (answer.state.length - 3) / 4;
    const drawn = `seed ${seed}${blend ? `, ${(100 * blend).toFixed(0)} % of the way to seed ${seed + 1}` : ""}, strength ${strength.toFixed(2)}${spots ? `, ${spots} ${spots === 1 ? "spot" : "spots"} painted` : ""}`;
    if (fresh()) {
      stale = 0;
      panel.say(`${members} members of ${drawn}: they disagree on ${((100 * disputed) / count).toFixed(1)} % of the pixels. Drawn in ${answer.milliseconds.toFixed(0)} ms.`);
    } else if (panel.saved) panel.say(`Shown are the last members drawn before this page was saved: ${drawn}. New members need a running kernel.`);
    else if (!stale) { stale = performance.now(); setTimeout(() => panel.redraw(), 1000); }
    else if (performance.now() - stale > 900) panel.say(`Shown are ${members} members of ${drawn}. New ones are being drawn; that needs a running kernel.`);
  };
};

// ---- a panel: what a scene sees of its model

const STYLE = `
.sdfdiff { container-type: inline-size; color: var(--jp-ui-font-color1, #1b1b1b); font: 13px/1.45 system-ui, sans-serif; max-width: 1080px; outline-offset: 3px; }
.sdfdiff { --ink-0: #3d8eb9; --ink-1: #c8553d; --ink-2: #8a6d00; --ink-3: #7a4fa0; }
[data-jp-theme-light=false] .sdfdiff { --ink-0: #5fb3de; --ink-1: #e8795f; --ink-2: #d1a900; --ink-3: #b08be0; }
.sdfdiff .grid { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 10px 14px; align-items: start; margin: 4px 0; }
.sdfdiff .tight figcaption { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
@container (max-width: 620px) {
  .sdfdiff .pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .sdfdiff .pairs figure:has(.plot) { order: 1; } /* plots after pictures */
  .sdfdiff .pairs .front { order: -1; }
}
.sdfdiff figure { margin: 0; min-width: 0; }
.sdfdiff figcaption { min-height: 1.5em; font-weight: 600; }
.sdfdiff .stack { position: relative; line-height: 0; overflow: hidden; }
.sdfdiff .sheet { transform-origin: 0 0; }
.sdfdiff .stack canvas { width: 100%; image-rendering: pixelated; border-radius: 2px; }
.sdfdiff .sheet canvas + canvas, .sdfdiff .stack .lines { position: absolute; inset: 0; height: 100%; }
.sdfdiff.wide { max-width: none; } .sdfdiff.wide .side { grid-template-columns: repeat(auto-fit, minmax(280px, 430px)); }
.sdfdiff .stack .lines { image-rendering: auto; pointer-events: none; }
.sdfdiff .stack canvas[hidden] { display: none; }
.sdfdiff .brush { cursor: crosshair; touch-action: none; }
.sdfdiff .bar { display: flex; flex-wrap: wrap; gap: 2px 6px; align-items: center; font-size: 12px; font-variant-numeric: tabular-nums; }
.sdfdiff .bar i { flex: 1; height: 9px; min-width: 40px; border: 1px solid #8888; }
.sdfdiff .bar b { font-weight: 400; flex-basis: 100%; text-align: center; }
.sdfdiff .plot > svg { display: block; max-width: 100%; }
.sdfdiff svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.sdfdiff svg .frame { fill: none; stroke: #8888; } .sdfdiff svg .tick { stroke: currentColor; }
.sdfdiff svg .line { fill: none; stroke-width: 2.2; } .sdfdiff svg .bars { fill: var(--ink-0); }
.sdfdiff svg .mark { stroke: currentColor; stroke-width: 1.8; }
.sdfdiff .legend { display: flex; flex-wrap: wrap; gap: 2px 14px; padding-left: 52px; font-size: 12px; }
.sdfdiff .legend span { display: inline-flex; gap: 5px; align-items: center; } .sdfdiff .legend svg { width: 26px; flex: none; }
.sdfdiff .keys { padding-left: 0; } .sdfdiff .keys i { width: 14px; height: 14px; border: 1px solid #8888; }
.sdfdiff .side { display: grid; gap: 8px; }
.sdfdiff .says { margin: 4px 0; min-height: 3em; font-variant-numeric: tabular-nums; }
.sdfdiff button { font: inherit; padding: 3px 10px; border: 1px solid #8888; border-radius: 3px; background: #8882; color: inherit; cursor: pointer; }
.sdfdiff .help { margin: 2px 0; font-size: 12px; opacity: 0.75; }
.sdfdiff .buttons { display: flex; gap: 8px; align-items: baseline; } .sdfdiff .buttons .says { flex: 1; }
.sdfdiff [role=alert] { border-left: 4px solid #c8553d; background: #c8553d22; padding: 8px 12px; margin: 4px 0; }
.sdfdiff-controls { font: 13px/1.45 system-ui, sans-serif; display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; margin: 6px 0; }
.sdfdiff-controls label { display: inline-flex; gap: 6px; align-items: center; }
.sdfdiff-controls input[type=range] { width: 190px; } .sdfdiff-controls output { min-width: 3.2em; font-variant-numeric: tabular-nums; }
.sdfdiff-controls button[aria-pressed=true] { background: #3d8eb955; }`;

class Panel {
  constructor(model, el, saved) {
    this.model = model;
    this.saved = saved;
    this.root = element("div", { class: "sdfdiff", tabindex: "0", role: "group", "aria-label": model.get("label") });
    this.says = element("p", { class: "says", "aria-live": "polite" });
    this.keys = {};
    this.runs = {};
    this.waiting = 0;
    this.drawn = 0;
    el.append(element("style", {}, STYLE), this.root);
  }

  get(name) { return this.model.get(name); }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  /* Call `react` when a state changes, and forget it when the panel goes. */
  onChange(name, react) {
    this.model.on(`change:${name}`, react);
    this.leave.push(() => this.model.off(`change:${name}`, react));
  }

  say(sentence) { if (this.says.textContent !== sentence) this.says.textContent = sentence; }

  grid(columns) {
    const grid = element("div", { class: "grid" });
    grid.style.setProperty("--columns", columns);
    grid.classList.toggle("tight", columns > 2);
    if (columns === 1) grid.style.maxWidth = "480px";
    this.root.append(grid);
    return grid;
  }

  /* However much changes, draw once, in the next screen frame. */
  redraw() {
    this.waiting ||= requestAnimationFrame(() => {
      const start = performance.now();
      this.waiting = 0;
      this.draw();
      this.root.dataset.took = (performance.now() - start).toFixed(2); // ms, for the benchmark
      this.root.dataset.drawn = ++this.drawn;
    });
  }

  /* Arrows move the `pixel` by one, the space bar does `space`. */
  points(rows, columns, space) {
    const move = (dr, dc) => {
      const [r, c] = this.get("pixel");
      this.set("pixel", [clamp(r + dr, 0, rows - 1), clamp(c + dc, 0, columns - 1)]);
    };
    this.keys = { ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1), " ": space };
  }

  /* Arrows step through `name`, the space bar plays it; it is a fraction, or a frame's number if `whole`. */
  plays(name, frames, whole = false) {
    const count = typeof frames === "function" ? frames : () => frames;
    const step = (by, around) => {
      const last = count() - 1;
      if (last < 1) return;
      const frame = Math.round(this.get(name) * (whole ? 1 : last)) + by;
      const next = around && frame > last ? 0 : clamp(frame, 0, last);
      this.set(name, whole ? next : next / last);
    };
    this.keys = { ArrowRight: () => step(1), ArrowUp: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => step(-1), " ": () => this.set("playing", !this.get("playing")) };
    let timer = 0, moved = 0; // a second view of the same panel plays too: whoever comes too soon after a step waits
    const play = () => {
      clearTimeout(timer);
      this.says.setAttribute("aria-live", this.get("playing") ? "off" : "polite");
      if (!this.get("playing")) return;
      const pause = clamp(4000 / count(), 33, 500);
      timer = setTimeout(() => { if (performance.now() - moved > 0.7 * pause) step(1, true); play(); }, pause);
    };
    this.onChange("playing", play);
    this.onChange(name, () => { moved = performance.now(); });
    this.leave.push(() => clearTimeout(timer));
    play();
  }

  start() {
    this.leave = [];
    if (this.get("message")) {
      this.root.append(element("p", { role: "alert" }, this.get("message")));
      return () => {};
    }
    this.settings = this.get("settings");
    this.data = unpackedAll(this.get("data"));
    this.draw = SCENES[this.get("scene")](this);
    for (const name of this.get("watched")) this.onChange(name, () => this.redraw());
    const help = this.get("label").split(": ")[1] ?? ""; // "name: how to use it"
    this.root.append(element("p", { class: "help" }, help.charAt(0).toUpperCase() + help.slice(1)));
    this.root.addEventListener("keydown", (event) => {
      const react = event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "BUTTON" ? null : this.keys[event.key];
      if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation(); // letters are commands of the notebook
      if (react) { event.preventDefault(); react(event); this.redraw(); }
    });
    const resized = new ResizeObserver(() => { // draws first when the panel has found its place
      for (const plot of this.root.querySelectorAll(".plot")) plot.room = plot.clientWidth;
      this.redraw();
    });
    resized.observe(this.root);
    return () => { resized.disconnect(); cancelAnimationFrame(this.waiting); this.leave.forEach((undo) => undo()); };
  }

  /* Runs arrive one by one, each as a model of its own: `runs` maps a name to its reference. */
  async fetchRuns() {
    for (const [name, reference] of Object.entries(this.get("runs") ?? {})) {
      this.runs[name] ??= unpackedAll((await this.model.widget_manager.get_model(reference.replace("IPY_MODEL_", ""))).get("data"));
    }
    this.redraw();
  }
}

function render({ model, el }) {
  const panel = new Panel(model, el, false), leave = panel.start();
  if (model.get("scene") === "reverse" && !model.get("message")) {
    panel.onChange("runs", () => panel.fetchRuns());
    panel.fetchRuns();
  }
  return leave;
}

// ---- a saved page: the same panel with native controls, no kernel and no network

async function unzipped(id) {
  const text = atob(document.getElementById(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new DataView(await new Response(stream).arrayBuffer());
}

async function filled(packed) {
  for (const one of Object.values(packed)) one.bytes = await unzipped(one.id);
  return packed;
}

function control({ kind, name, label, options, min, max, step, digits }, model) {
  const bind = (input, read, write) => {
    const update = () => write(model.get(name));
    input.addEventListener("input", () => model.set(name, read()));
    model.on(`change:${name}`, update);
    update();
    return element("label", {}, label, input);
  };
  if (kind === "choice") {
    const input = element("select", { name }, ...options.map((option, k) => element("option", { value: k }, option)));
    return bind(input, () => +input.value, (value) => { input.value = value; });
  }
  if (kind === "toggle") {
    const button = element("button", { type: "button", name }, label);
    button.addEventListener("click", () => model.set(name, !model.get(name)));
    const update = () => {
      button.setAttribute("aria-pressed", model.get(name));
      if (name === "playing") button.textContent = model.get(name) ? "pause" : "play";
    };
    model.on(`change:${name}`, update);
    update();
    return button;
  }
  const input = element("input", { type: "range", name, min, max, step }), shown = element("output");
  const made = bind(input, () => +input.value, (value) => { input.value = value; shown.textContent = value.toFixed(digits); });
  made.append(shown);
  return made;
}

async function page(el, state, controls) {
  if (!("DecompressionStream" in window)) {
    el.append(element("p", { role: "alert" }, "This page needs a browser of 2023 or newer: it unpacks its numbers with DecompressionStream."));
    return;
  }
  const react = {};
  const model = {
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      (react[`change:${name}`] ?? []).forEach((one) => one());
    },
    on: (event, one) => (react[event] ??= []).push(one),
    off: (event, one) => { react[event] = (react[event] ?? []).filter((other) => other !== one); },
    save_changes() {},
  };
  await filled(state.data);
  for (const name of state.watched) if (/^bytes-\d+$/.test(state[name])) state[name] = await unzipped(state[name]);
  el.append(element("div", { class: "sdfdiff-controls" }, ...controls.map((one) => control(one, model))));
  const panel = new Panel(model, el, true);
  for (const [name, run] of Object.entries(state.runs ?? {})) panel.runs[name] = unpackedAll(await filled(run));
  panel.start();
  const report = () => parent !== window && parent.postMessage({ sdfdiffHeight: document.documentElement.offsetHeight }, "*");
  new ResizeObserver(report).observe(document.documentElement);
  document.body.dataset.ready = "yes";
}

export default { render };
