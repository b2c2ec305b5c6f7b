"use strict";
(() => {
  const data = JSON.parse(document.getElementById("volumes").textContent);
  const [nx, ny, nz] = data.shape;
  const size = data.shape;
  const at = size.map((n) => Math.floor(n / 2));
  const element = (id) => document.getElementById(id);
  const planes = [
    { name: "sagittal", axis: 0, across: 1, up: 2, mirrored: false },
    { name: "coronal", axis: 1, across: 0, up: 2, mirrored: true },
    { name: "axial", axis: 2, across: 0, up: 1, mirrored: true },
  ];
  const volumes = {};

  async function inflate(text) {
    const deflated = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
    const values = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = 1; i < values.length; i++) values[i] += values[i - 1];
    return values;
  }

  const offset = (voxel) => voxel[0] + nx * (voxel[1] + ny * voxel[2]);
  const checked = (id) => element(id).checked;
  const base = () => document.querySelector("input[name=base]:checked").value;

  function toMm(voxel) {
    return data.affine.slice(0, 3).map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
  }

  function toVoxel(mm) {
    const m = data.affine.slice(0, 3).map((row) => row.slice(0, 3));
    const b = data.affine.slice(0, 3).map((row, i) => mm[i] - row[3]);
    const det = (a) =>
      a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0]) +
      a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
    const whole = det(m);
    return [0, 1, 2].map((k) => det(m.map((row, i) => row.map((value, j) => (j === k ? b[i] : value)))) / whole);
  }

  const clamp = (value, n) => Math.min(n - 1, Math.max(0, Math.round(value)));

  function moveTo(voxel) {
    voxel.forEach((value, axis) => { at[axis] = clamp(value, size[axis]); });
    draw();
  }

  function paint(plane) {
    const { axis, across, up, mirrored } = plane;
    const w = size[across], h = size[up];
    const image = new ImageData(w, h);
    const grey = volumes[base()], mask = volumes.mask, map = volumes.anomaly_map;
    const opacity = Number(element("opacity").value) / 100;
    const showMap = checked("show-map"), fill = checked("show-fill");
    const voxel = [0, 0, 0];
    voxel[axis] = at[axis];
    for (let row = 0; row < h; row++) {
      voxel[up] = h - 1 - row;
      for (let column = 0; column < w; column++) {
        voxel[across] = mirrored ? w - 1 - column : column;
        const i = offset(voxel), p = 4 * (row * w + column);
        let r = grey[i], g = r, b = r;
        if (showMap && map[i] > 12) {
          const level = (map[i] * 3) / 255, a = opacity * Math.min(1, map[i] / 64);
          r += a * (255 * Math.min(1, level) - r);
          g += a * (255 * Math.min(1, Math.max(0, level - 1)) - g);
          b += a * (255 * Math.min(1, Math.max(0, level - 2)) - b);
        }
        if (fill && mask[i]) {
          r += opacity * (255 - r);
          g += opacity * (107 - g);
          b += opacity * (87 - b);
        }
        image.data[p] = r;
        image.data[p + 1] = g;
        image.data[p + 2] = b;
        image.data[p + 3] = 255;
      }
    }
    plane.buffer.getContext("2d").putImageData(image, 0, 0);
  }

  function outline(plane, context, sx, sy) {
    const { axis, across, up, mirrored } = plane;
    const w = size[across], h = size[up], voxel = [0, 0, 0];
    voxel[axis] = at[axis];
    const inside = (column, row) => {
      if (column < 0 || row < 0 || column >= w || row >= h) return 0;
      voxel[across] = mirrored ? w - 1 - column : column;
      voxel[up] = h - 1 - row;
      return volumes.mask[offset(voxel)];
    };
    context.beginPath();
    for (let row = 0; row <= h; row++) {
      for (let column = 0; column <= w; column++) {
        const here = inside(column, row);
        if (here !== inside(column - 1, row)) {
          context.moveTo(column * sx, row * sy);
          context.lineTo(column * sx, (row + 1) * sy);
        }
        if (here !== inside(column, row - 1)) {
          context.moveTo(column * sx, row * sy);
          context.lineTo((column + 1) * sx, row * sy);
        }
      }
    }
    context.strokeStyle = "#ff6b57";
    context.lineWidth = 2;
    context.stroke();
  }

  function drawPlane(plane) {
    paint(plane);
    const { canvas, axis, across, up, mirrored } = plane;
    const context = canvas.getContext("2d");
    const sx = canvas.width / size[across], sy = canvas.height / size[up];
    context.drawImage(plane.buffer, 0, 0, canvas.width, canvas.height);
    if (checked("show-outline")) outline(plane, context, sx, sy);
    if (checked("show-cross")) {
      const x = ((mirrored ? size[across] - 1 - at[across] : at[across]) + 0.5) * sx;
      const y = (size[up] - 1 - at[up] + 0.5) * sy;
      context.strokeStyle = "#8fd0ffb0";
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, canvas.height);
      context.moveTo(0, y);
      context.lineTo(canvas.width, y);
      context.stroke();
    }
    if (mirrored) {
      context.fillStyle = "#e0e0e0";
      context.font = "20px sans-serif";
      context.fillText("R", 6, canvas.height / 2);
      context.fillText("L", canvas.width - 20, canvas.height / 2);
    }
    plane.slider.value = String(at[axis]);
    plane.slider.setAttribute("aria-valuetext", `slice ${at[axis] + 1} of ${size[axis]}`);
  }

  function intensity(name, i) {
    const [low, high] = data.window;
    return (low + (volumes[name][i] / 255) * (high - low)).toPrecision(3);
  }

  function draw() {
    planes.forEach(drawPlane);
    const i = offset(at), mm = toMm(at);
    const side = (value, plus, minus) => `${Math.abs(value).toFixed(0)} mm ${value < 0 ? minus : plus}`;
    const where = [side(mm[0], "right", "left"), side(mm[1], "front", "back"), side(mm[2], "up", "down")].join(", ");
    const error = ((volumes.anomaly_map[i] / 255) * data.top_error).toPrecision(2);
    element("readout").textContent =
      `${where}: scan ${intensity("scan", i)}, expected ${intensity("reconstruction", i)}, ` +
      `error ${error}, ${volumes.mask[i] ? "flagged" : "not flagged"}`;
  }

  function point(plane, event) {
    const { canvas, across, up, mirrored } = plane, box = canvas.getBoundingClientRect();
    const column = ((event.clientX - box.left) / box.width) * size[across] - 0.5;
    const row = ((event.clientY - box.top) / box.height) * size[up] - 0.5;
    const voxel = [...at];
    voxel[across] = mirrored ? size[across] - 1 - column : column;
    voxel[up] = size[up] - 1 - row;
    moveTo(voxel);
  }

  function press(plane, event) {
    const sign = plane.mirrored ? -1 : 1;
    const steps = {
      ArrowLeft: [plane.across, -sign], ArrowRight: [plane.across, sign], ArrowUp: [plane.up, 1],
      ArrowDown: [plane.up, -1], PageUp: [plane.axis, 1], PageDown: [plane.axis, -1],
    };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const voxel = [...at];
    voxel[step[0]] += step[1];
    moveTo(voxel);
  }

  function prepare(plane) {
    plane.canvas = element(`canvas-${plane.name}`);
    plane.slider = element(`slice-${plane.name}`);
    plane.buffer = document.createElement("canvas");
    plane.buffer.width = size[plane.across];
    plane.buffer.height = size[plane.up];
    const width = size[plane.across] * data.spacing_mm[plane.across];
    const height = size[plane.up] * data.spacing_mm[plane.up];
    plane.canvas.width = Math.round(width * 3);
    plane.canvas.height = Math.round(height * 3);
    plane.slider.max = String(size[plane.axis] - 1);
    plane.slider.addEventListener("input", () => {
      at[plane.axis] = Number(plane.slider.value);
      draw();
    });
    let held = false;
    plane.canvas.addEventListener("pointerdown", (event) => {
      held = true;
      plane.canvas.setPointerCapture(event.pointerId);
      point(plane, event);
    });
    plane.canvas.addEventListener("pointermove", (event) => { if (held) point(plane, event); });
    ["pointerup", "pointercancel"].forEach((name) => plane.canvas.addEventListener(name, () => { held = false; }));
    plane.canvas.addEventListener("keydown", (event) => press(plane, event));
  }

  function toggle(event) {
    const typing = event.target.closest("input[type=text], textarea, select");
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    const boxes = { m: "show-map", f: "show-fill", o: "show-outline" };
    const key = event.key.toLowerCase();
    if (boxes[key]) {
      element(boxes[key]).checked = !checked(boxes[key]);
      draw();
    } else if (key === "r") {
      const [scan, other] = document.querySelectorAll("input[name=base]");
      (scan.checked ? other : scan).checked = true;
      draw();
    }
  }

  function goToRegion(index) {
    const component = data.components[index];
    if (!component) return moveTo(size.map((n) => n / 2));
    return moveTo(toVoxel(component.peak_mm));
  }

  async function start() {
    const status = element("view-status");
    try {
      for (const [name, text] of Object.entries(data.volumes)) volumes[name] = await inflate(text);
    } catch (error) {
      status.textContent = `The view needs a newer browser (${error.message}). The pictures below do not.`;
      return;
    }
    planes.forEach(prepare);
    element("view").hidden = false;
    status.hidden = true;
    document.querySelectorAll("#view .controls input").forEach((input) => input.addEventListener("input", draw));
    element("region").addEventListener("change", (event) => goToRegion(event.target.value));
    document.addEventListener("keydown", toggle);
    if (data.components.length) element("region").value = "0";
    goToRegion(element("region").value);
  }

  const form = element("rating-form");
  const fields = ["finding", "quality", "rater", "comment"];

  function rating() {
    const values = Object.fromEntries(fields.map((name) => [name, new FormData(form).get(name) || ""]));
    return { case: data.case, ...values, result: data.rating_key.split(".").pop(), rated: new Date().toISOString() };
  }

  function say(text) {
    element("rating-status").textContent = text;
  }

  function keep() {
    try {
      localStorage.setItem(data.rating_key, JSON.stringify(rating()));
      say("Kept in this browser. Export it to hand it on.");
    } catch {
      say("This browser keeps nothing for this page: export the rating before you close it.");
    }
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(data.rating_key) || "null");
      if (!kept) return;
      for (const name of fields) {
        const field = form.elements[name];
        if (field) field.value = kept[name] || "";
      }
      say(`Kept in this browser, ${kept.rated}.`);
    } catch {
      say("This browser keeps nothing for this page: export the rating before you close it.");
    }
  }

  function download(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  form.addEventListener("input", keep);
  form.addEventListener("submit", (event) => event.preventDefault());
  element("export-json").addEventListener("click", () => {
    download(`${data.case}_rating.json`, JSON.stringify(rating(), null, 1) + "\n", "application/json");
  });
  element("export-tsv").addEventListener("click", () => {
    const found = rating(), cells = Object.values(found).map((value) => String(value).replace(/\s+/g, " "));
    download(`${data.case}_rating.tsv`, `${Object.keys(found).join("\t")}\n${cells.join("\t")}\n`, "text/tab-separated-values");
  });
  element("rating-clear").addEventListener("click", () => {
    form.reset();
    try {
      localStorage.removeItem(data.rating_key);
    } catch {
      return;
    }
    say("Cleared.");
  });
  restore();
  start();
})();
