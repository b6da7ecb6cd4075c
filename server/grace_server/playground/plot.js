// Points on a canvas: panned, zoomed, looked at with a pointer or with the arrow keys. 20,000 of them stay smooth.

const MARGIN = 24; // pixels between the outermost points and the edge
const REACH = 24; // pixels within which a pointer finds a point
const MOST_ZOOM = 60;
const CELLS = 64; // of the grid that finds points, along each axis

export class Plot {
  // `looked(index or null)` is told which point is looked at.
  constructor(canvas, over, looked) {
    Object.assign(this, { canvas, over, looked });
    this.x = this.y = [];
    this.of = null;
    this.colours = { list: [] };
    this.single = null; // the one colour brought out
    this.query = null; // [x, y]
    this.hits = [];
    this.at = null; // the point looked at
    this.asked = false;
    this.reset();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    this.listen();
  }

  show(x, y, anew) {
    Object.assign(this, { x, y, of: null, single: null });
    if (anew) Object.assign(this, { query: null, hits: [], at: null });
    this.measure();
    if (anew) this.reset();
    this.redraw();
  }

  colour(of, colours) {
    Object.assign(this, { of, colours, single: null });
    this.redraw();
  }

  only(single) {
    this.single = single;
    this.redraw();
  }

  ask(query, hits) {
    Object.assign(this, { query, hits });
    this.measure();
    this.redraw();
  }

  look(at) {
    this.at = at;
    this.looked(at);
    const [x, y] = this.place(at);
    const { width, height } = this.box();
    if (x < 0 || y < 0 || x > width || y > height) {
      this.left += width / 2 - x;
      this.top += height / 2 - y;
    }
    this.redraw();
  }

  reset() {
    Object.assign(this, { scale: 1, left: 0, top: 0 });
    this.redraw();
  }

  // Around a place of the canvas, by default its middle.
  zoom(by, [x, y] = [this.box().width / 2, this.box().height / 2]) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.scale * by));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    if (scale === 1) this.left = this.top = 0;
    this.redraw();
  }

  box() {
    return this.canvas.getBoundingClientRect();
  }

  // The extent of all points and the query, and the grid that finds points.
  measure() {
    const xs = this.query ? [...this.x, this.query[0]] : this.x;
    const ys = this.query ? [...this.y, this.query[1]] : this.y;
    const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
    const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
    this.extent = { x: least(xs), y: least(ys), width: Math.max(1e-6, most(xs) - least(xs)), height: Math.max(1e-6, most(ys) - least(ys)) };
    this.grid = new Map();
    for (let i = 0; i < this.x.length; i++) {
      const key = this.cell(this.x[i], this.y[i]).join();
      if (!this.grid.has(key)) this.grid.set(key, []);
      this.grid.get(key).push(i);
    }
  }

  cell(x, y) {
    const { extent } = this;
    return [Math.floor(((x - extent.x) / extent.width) * CELLS), Math.floor(((y - extent.y) / extent.height) * CELLS)];
  }

  // Pixels per unit across and up, before zooming. Both axes keep their proportion.
  unit() {
    const { width, height } = this.box();
    return Math.min((width - 2 * MARGIN) / this.extent.width, (height - 2 * MARGIN) / this.extent.height);
  }

  pixel(x, y) {
    const { width, height } = this.box();
    const unit = this.unit();
    const { extent } = this;
    return [
      (width / 2 + (x - extent.x - extent.width / 2) * unit) * this.scale + this.left,
      (height / 2 - (y - extent.y - extent.height / 2) * unit) * this.scale + this.top,
    ];
  }

  place(at) {
    return this.pixel(this.x[at], this.y[at]);
  }

  // The nearest point within reach of a place of the canvas, or null.
  find(px, py) {
    const { width, height } = this.box();
    const unit = this.unit();
    const { extent } = this;
    const x = extent.x + extent.width / 2 + ((px - this.left) / this.scale - width / 2) / unit;
    const y = extent.y + extent.height / 2 - ((py - this.top) / this.scale - height / 2) / unit;
    const reach = REACH / this.scale / unit;
    const [fromX, fromY] = this.cell(x - reach, y - reach);
    const [toX, toY] = this.cell(x + reach, y + reach);
    let best = null;
    let least = reach * reach;
    for (let i = Math.max(0, fromX); i <= Math.min(CELLS, toX); i++) {
      for (let j = Math.max(0, fromY); j <= Math.min(CELLS, toY); j++) {
        for (const at of this.grid.get(`${i},${j}`) ?? []) {
          if (this.hidden(at)) continue;
          const far = (this.x[at] - x) ** 2 + (this.y[at] - y) ** 2;
          if (far < least) [least, best] = [far, at];
        }
      }
    }
    return best;
  }

  hidden(at) {
    return this.single !== null && this.of !== null && this.of[at] !== this.single;
  }

  // The next point in a direction: near, and not far off the line.
  step(dx, dy) {
    if (this.at === null || this.hidden(this.at)) {
      const { width, height } = this.box();
      return this.nearest(([x, y]) => Math.hypot(x - width / 2, y - height / 2));
    }
    const [x0, y0] = this.place(this.at);
    return this.nearest(([x, y], at) => {
      const along = (x - x0) * dx + (y - y0) * dy;
      const off = Math.abs((x - x0) * dy - (y - y0) * dx);
      return at === this.at || along < 1 || off > along * 2 ? Infinity : along + off * 2;
    });
  }

  nearest(distance) {
    let best = null;
    let least = Infinity;
    for (let at = 0; at < this.x.length; at++) {
      if (this.hidden(at)) continue;
      const far = distance(this.place(at), at);
      if (far < least) [least, best] = [far, at];
    }
    return best;
  }

  listen() {
    const { over } = this;
    const pointers = new Map();
    const inside = (event) => [event.clientX - this.box().left, event.clientY - this.box().top];
    let moved = 0;
    over.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, inside(event));
      moved = 0;
      over.setPointerCapture(event.pointerId);
    });
    over.addEventListener("pointermove", (event) => {
      const now = inside(event);
      const was = pointers.get(event.pointerId);
      if (!was) return event.pointerType === "mouse" && this.hover(now);
      const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      if (others.length) {
        const [other] = others;
        this.zoom(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(was[0] - other[0], was[1] - other[1])), other);
      } else if (this.scale > 1) {
        this.left += now[0] - was[0];
        this.top += now[1] - was[1];
        this.redraw();
      }
      moved += Math.hypot(now[0] - was[0], now[1] - was[1]);
      pointers.set(event.pointerId, now);
    });
    const up = (event) => {
      if (pointers.delete(event.pointerId) && moved < 6 && event.type === "pointerup") this.hover(inside(event));
    };
    over.addEventListener("pointerup", up);
    over.addEventListener("pointercancel", up);
    over.addEventListener("wheel", (event) => {
      if (this.scale === 1 && event.deltaY > 0) return; // nothing to zoom out of: the page scrolls
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), inside(event));
    }, { passive: false });
    over.addEventListener("keydown", (event) => this.key(event));
  }

  hover(place) {
    const at = this.x.length ? this.find(...place) : null;
    if (at === this.at || at === null) return;
    this.at = at;
    this.looked(at);
    this.redraw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.x.length) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (way) {
      const next = this.step(...way);
      if (next !== null) this.look(next);
    } else if (event.key === "+" || event.key === "=") this.zoom(1.5, this.at === null ? undefined : this.place(this.at));
    else if (event.key === "-") this.zoom(1 / 1.5, this.at === null ? undefined : this.place(this.at));
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  // Once per frame, however often it is asked for.
  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.x.length && this.box().width) this.paint();
      this.over.style.setProperty("touch-action", this.scale > 1 ? "none" : "pan-y");
    });
  }

  paint() {
    const context = fresh(this.canvas, this.box());
    const count = this.x.length;
    const size = (count <= 500 ? 9 : count <= 4000 ? 6 : 3.5) * Math.min(2, Math.sqrt(this.scale));
    const { width, height } = this.box();
    const unit = this.unit() * this.scale;
    const [originX, originY] = this.pixel(0, 0);
    const groups = this.colours.list.map(() => []);
    for (let at = 0; at < count; at++) groups[this.of ? this.of[at] : 0]?.push(at);
    // Rare colours last, so that they lie on top.
    const order = groups.map((_, at) => at).sort((a, b) => groups[b].length - groups[a].length);
    for (const colour of order) {
      context.globalAlpha = this.single === null || colour === this.single ? 0.85 : 0.1;
      context.fillStyle = this.colours.list[colour];
      context.beginPath();
      for (const at of groups[colour]) {
        const x = originX + this.x[at] * unit;
        const y = originY - this.y[at] * unit;
        if (x < -size || y < -size || x > width + size || y > height + size) continue;
        if (count <= 4000) {
          context.moveTo(x + size / 2, y);
          context.arc(x, y, size / 2, 0, 7);
        } else context.rect(x - size / 2, y - size / 2, size, size);
      }
      context.fill();
    }
    this.paintOver(size);
  }

  paintOver(size) {
    const context = fresh(this.over, this.box());
    const style = getComputedStyle(this.over);
    const ink = style.getPropertyValue("--ink");
    const ground = style.getPropertyValue("--card");
    if (this.query) {
      const [x, y] = this.pixel(...this.query);
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.globalAlpha = 0.5;
      for (const at of this.hits) {
        const [hx, hy] = this.place(at);
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(hx, hy);
        context.stroke();
      }
      context.globalAlpha = 1;
      for (const at of this.hits) ring(context, this.place(at), size / 2 + 2, ink, ground);
      star(context, x, y, 11, ink, ground);
    }
    if (this.at !== null) {
      ring(context, this.place(this.at), size / 2 + 5, style.getPropertyValue("--accent"), ground, 3);
    }
  }
}

function fresh(canvas, { width, height }) {
  const dense = window.devicePixelRatio || 1;
  const across = Math.round(width * dense);
  const down = Math.round(height * dense);
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function ring(context, [x, y], radius, colour, ground, width = 2) {
  for (const [style, line] of [[ground, width + 2], [colour, width]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.stroke();
  }
}

function star(context, x, y, radius, colour, ground) {
  context.beginPath();
  for (let i = 0; i < 10; i++) {
    const angle = (i * Math.PI) / 5 - Math.PI / 2;
    const far = i % 2 ? radius * 0.45 : radius;
    context.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
  }
  context.closePath();
  context.fillStyle = colour;
  context.strokeStyle = ground;
  context.lineWidth = 2;
  context.stroke();
  context.fill();
}
