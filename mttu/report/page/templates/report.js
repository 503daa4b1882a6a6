"use strict";
(function () {
  const shared = JSON.parse(document.getElementById("shared").textContent);
  const classColours = [null, ...shared.colours.map(readColour)];

  function readColour(text) {
    return [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function readLayers(part, selector) {
    return Object.fromEntries(Array.from(part.querySelectorAll(selector), (box) => [box.dataset.layer, box.checked]));
  }

  // ---- slices: three planes of a volume (H, W, D) in C order, as in mttu/figures/overlay.py

  function drawPlane(canvas, volume, plane, index, layers) {
    const axes = [0, 1, 2].filter((axis) => axis !== plane.axis);
    const strides = [volume.shape[1] * volume.shape[2], volume.shape[2], 1];
    const columns = volume.shape[axes[0]], rows = volume.shape[axes[1]];
    const scale = Math.max(2, Math.ceil(384 / Math.max(columns, rows)));
    const line = scale > 5 ? 2 : 1;
    const upsideDown = plane.edges[2] !== "A";
    const width = columns * scale;
    canvas.width = width;
    canvas.height = rows * scale;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(width, rows * scale);
    const pixels = new Uint32Array(picture.data.buffer);
    const place = (column, row) => index * strides[plane.axis] + column * strides[axes[0]] + row * strides[axes[1]];
    const truthAt = (column, row) =>
      column < 0 || row < 0 || column >= columns || row >= rows ? 0 : volume.classes[place(column, row)] & 3;
    for (let row = 0; row < rows; row++) {
      const top = (upsideDown ? rows - 1 - row : row) * scale;
      for (let column = 0; column < columns; column++) {
        const voxel = place(column, row);
        const base = layers.image ? (255 * volume.grey[voxel]) / volume.levels : 0;
        let colour = [base, base, base];
        if (layers.uncertainty) {
          const share = volume.uncertainty[voxel] / volume.levels;
          const step = 3 * Math.round(255 * share);
          colour = mix(colour, shared.uncertainty.slice(step, step + 3), Math.min(0.85, 3 * share));
        }
        const predicted = volume.classes[voxel] >> 2;
        if (layers.prediction && predicted) colour = mix(colour, classColours[predicted], 0.3);
        const fill = toPixel(colour);
        for (let y = top; y < top + scale; y++) pixels.fill(fill, y * width + column * scale, y * width + (column + 1) * scale);
      }
    }
    if (layers.truth) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const own = truthAt(column, row);
          if (!own) continue;
          const ink = toPixel(classColours[own]);
          const left = column * scale, top = (upsideDown ? rows - 1 - row : row) * scale;
          const differs = (other) => other !== own && rank(other) < rank(own);
          const up = upsideDown ? 1 : -1;
          if (differs(truthAt(column - 1, row))) block(left, top, line, scale, ink);
          if (differs(truthAt(column + 1, row))) block(left + scale - line, top, line, scale, ink);
          if (differs(truthAt(column, row + up))) block(left, top, scale, line, ink);
          if (differs(truthAt(column, row - up))) block(left, top + scale - line, scale, line, ink);
        }
      }
    }
    context.putImageData(picture, 0, 0);

    function block(left, top, across, down, ink) {
      for (let y = top; y < top + down; y++) pixels.fill(ink, y * width + left, y * width + left + across);
    }
  }

  function rank(label) { // enhancing tumour lies inside the core, the core inside the edema
    return [0, 2, 1, 3][label];
  }

  function mix(below, above, share) {
    return below.map((value, channel) => value + (above[channel] - value) * share);
  }

  function toPixel(colour) { // canvases are little-endian everywhere that browsers run
    return (255 << 24) | (Math.round(colour[2]) << 16) | (Math.round(colour[1]) << 8) | Math.round(colour[0]);
  }

  async function startSlices(part, data) {
    const volume = { shape: data.shape, levels: data.levels };
    for (const name of ["grey", "classes", "uncertainty"]) volume[name] = new Uint8Array(await unpack(data[name]));
    data.planes.forEach((plane, number) => {
      const canvas = part.querySelector(`canvas[data-plane="${number}"]`);
      const slider = part.querySelector(`input[type="range"][data-plane="${number}"]`);
      const frame = canvas.parentElement;
      ["left", "right", "top", "bottom"].forEach((side, edge) => {
        frame.querySelector(`.${side}`).textContent = plane.edges[edge];
      });
      slider.max = volume.shape[plane.axis] - 1;
      slider.value = data.start[plane.axis];
      const draw = () => {
        const index = Number(slider.value);
        const told = `${index + 1} of ${volume.shape[plane.axis]}`;
        slider.parentElement.querySelector("output").textContent = told;
        slider.setAttribute("aria-valuetext", told);
        canvas.setAttribute("aria-label", `${plane.title} plane ${told} of ${data.case}`);
        drawPlane(canvas, volume, plane, index, readLayers(part, "[data-layer]"));
      };
      slider.addEventListener("input", draw);
      for (const box of part.querySelectorAll("[data-layer]")) box.addEventListener("change", draw);
      canvas.addEventListener("wheel", (event) => {
        if (!event.shiftKey) return; // a plain turn of the wheel scrolls the page
        event.preventDefault();
        slider.value = Number(slider.value) + Math.sign(event.deltaY || event.deltaX);
        draw();
      }, { passive: false });
      draw();
    });
  }

  // ---- surfaces: a mesh in millimetres, left, back and up, seen from far away as in mttu/figures/surface.py

  async function readMesh(packed) {
    const raw = new Int16Array(await unpack(packed.vertices));
    const faces = new Uint32Array(await unpack(packed.faces));
    const vertices = Float32Array.from(raw, (value) => value / 20);
    const normals = new Float32Array(vertices.length);
    for (let face = 0; face < faces.length; face += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((corner) => 3 * faces[face + corner]);
      const first = [0, 1, 2].map((axis) => vertices[c + axis] - vertices[a + axis]);
      const second = [0, 1, 2].map((axis) => vertices[d + axis] - vertices[b + axis]);
      for (let axis = 0; axis < 3; axis++) {
        const one = (axis + 1) % 3, two = (axis + 2) % 3;
        const area = first[one] * second[two] - first[two] * second[one];
        for (const corner of [a, b, c, d]) normals[corner + axis] += area;
      }
    }
    const distance = packed.distance ? new Uint8Array(await unpack(packed.distance)) : null;
    return { vertices, faces, normals, distance };
  }

  function findCamera(azimuth, elevation) {
    const turn = (azimuth * Math.PI) / 180, tilt = (elevation * Math.PI) / 180;
    const level = Math.cos(tilt);
    const towards = [Math.sin(turn) * level, -Math.cos(turn) * level, Math.sin(tilt)];
    const right = [Math.cos(turn), Math.sin(turn), 0];
    const up = [0, 1, 2].map((axis) => {
      const one = (axis + 1) % 3, two = (axis + 2) % 3;
      return towards[one] * right[two] - towards[two] * right[one];
    });
    return [right, up, towards];
  }

  // Each pixel that a triangle covers, with the weights of its corners and its depth; the nearest one stays.
  function cover(mesh, camera, size, scale, visit) {
    const count = mesh.vertices.length / 3;
    const seen = new Float32Array(3 * count);
    for (let vertex = 0; vertex < count; vertex++) {
      for (let axis = 0; axis < 3; axis++) {
        let value = 0;
        for (let part = 0; part < 3; part++) value += camera[axis][part] * mesh.vertices[3 * vertex + part];
        seen[3 * vertex + axis] = axis === 2 ? value : size / 2 + (axis ? -value : value) * scale;
      }
    }
    const depths = new Float32Array(size * size).fill(-Infinity);
    for (let face = 0; face < mesh.faces.length; face += 4) {
      const corners = mesh.faces.subarray(face, face + 4);
      fill(corners[0], corners[1], corners[2]);
      fill(corners[0], corners[2], corners[3]);
    }

    function fill(a, b, c) {
      const ax = seen[3 * a], ay = seen[3 * a + 1], bx = seen[3 * b], by = seen[3 * b + 1], cx = seen[3 * c], cy = seen[3 * c + 1];
      const area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
      if (Math.abs(area) < 1e-9) return;
      const left = Math.max(0, Math.floor(Math.min(ax, bx, cx))), right = Math.min(size - 1, Math.ceil(Math.max(ax, bx, cx)));
      const top = Math.max(0, Math.floor(Math.min(ay, by, cy))), bottom = Math.min(size - 1, Math.ceil(Math.max(ay, by, cy)));
      for (let y = top; y <= bottom; y++) {
        for (let x = left; x <= right; x++) {
          const wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area;
          const wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area;
          const wa = 1 - wb - wc;
          if (wa < -1e-6 || wb < -1e-6 || wc < -1e-6) continue;
          const depth = wa * seen[3 * a + 2] + wb * seen[3 * b + 2] + wc * seen[3 * c + 2];
          const pixel = y * size + x;
          if (depth <= depths[pixel]) continue;
          depths[pixel] = depth;
          visit(pixel, a, b, c, wa, wb, wc);
        }
      }
    }
  }

  const lamp = normalise([-0.35, 0.45, 0.82]);

  function normalise(vector) {
    const length = Math.hypot(...vector) || 1;
    return vector.map((value) => value / length);
  }

  function drawSurface(canvas, meshes, radius, azimuth, elevation, outline) {
    const size = canvas.width, scale = (size / 2 - 6) / radius;
    const camera = findCamera(azimuth, elevation);
    const context = canvas.getContext("2d");
    const picture = context.createImageData(size, size);
    const pixels = new Uint32Array(picture.data.buffer).fill(0xffffffff);
    const mesh = meshes.prediction;
    if (mesh) {
      const light = [0, 1, 2].map((part) => [0, 1, 2].reduce((sum, axis) => sum + lamp[axis] * camera[axis][part], 0));
      const shades = new Float32Array(mesh.vertices.length / 3);
      for (let vertex = 0; vertex < shades.length; vertex++) {
        const normal = normalise(Array.from(mesh.normals.subarray(3 * vertex, 3 * vertex + 3)));
        const lit = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2];
        shades[vertex] = 0.5 + 0.5 * Math.max(0, lit);
      }
      cover(mesh, camera, size, scale, (pixel, a, b, c, wa, wb, wc) => {
        const shade = wa * shades[a] + wb * shades[b] + wc * shades[c];
        let colour = [178, 178, 178];
        if (mesh.distance) {
          const step = 3 * Math.round(wa * mesh.distance[a] + wb * mesh.distance[b] + wc * mesh.distance[c]);
          colour = shared.distance.slice(step, step + 3);
        }
        pixels[pixel] = toPixel(colour.map((value) => value * shade));
      });
    }
    if (outline && meshes.truth) {
      const inside = new Uint8Array(size * size);
      cover(meshes.truth, camera, size, scale, (pixel) => { inside[pixel] = 1; });
      for (let pixel = size; pixel < inside.length - size; pixel++) {
        const edge = inside[pixel] && !(inside[pixel - 1] && inside[pixel + 1] && inside[pixel - size] && inside[pixel + size]);
        if (!edge) continue;
        pixels[pixel] = pixels[pixel + size] = 0xff000000;
        if ((pixel + 1) % size) pixels[pixel + 1] = 0xff000000; // not across the end of a row
      }
    }
    context.putImageData(picture, 0, 0);
    drawBearings(context, size, scale, camera);
  }

  // Where left, back and head are, and how long some millimetres are.
  function drawBearings(context, size, scale, camera) {
    const long = 22, middle = [38, size - 38];
    context.strokeStyle = context.fillStyle = "#333";
    context.font = "13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    const draw = (points) => {
      context.beginPath();
      for (const [x, y] of points) context.lineTo(x, y);
      context.stroke();
    };
    ["L", "P", "S"].forEach((letter, axis) => {
      const [across, down] = [camera[0][axis], -camera[1][axis]];
      const place = (length) => [middle[0] + length * across, middle[1] + length * down];
      draw([middle, place(long)]);
      if (Math.hypot(across, down) > 0.2) context.fillText(letter, ...place(long + 9 / Math.hypot(across, down)));
    });
    const told = [50, 20, 10, 5, 2, 1].find((length) => length * scale < size / 3) || 1;
    const right = size - 12, left = right - told * scale, base = size - 14;
    draw([[left, base - 4], [left, base], [right, base], [right, base - 4]]);
    context.fillText(`${told} mm`, (left + right) / 2, base - 12);
  }

  async function startSurface(part, data) {
    const canvas = part.querySelector("canvas");
    if (!data.surface) {
      canvas.replaceWith(Object.assign(document.createElement("p"), { textContent: "No tumour in truth and prediction." }));
      for (const input of part.querySelectorAll("input")) input.disabled = true;
      return;
    }
    const meshes = {};
    for (const name of ["prediction", "truth"]) if (data.surface[name]) meshes[name] = await readMesh(data.surface[name]);
    const [turn, tilt] = ["azimuth", "elevation"].map((name) => part.querySelector(`[data-angle="${name}"]`));
    const outline = part.querySelector("[data-outline]");
    const draw = () => {
      const sides = [[turn, "left", "right", "of the front"], [tilt, "above", "below", ""]].map(([slider, plus, minus, of]) => {
        const angle = Number(slider.value);
        const told = `${Math.abs(angle)}° ${angle < 0 ? minus : plus}`;
        slider.parentElement.querySelector("output").textContent = told;
        slider.setAttribute("aria-valuetext", `${told} ${of}`.trim());
        return `${told} ${of}`.trim();
      });
      canvas.setAttribute("aria-label", `Predicted surface of ${data.case}, seen from ${sides.join(" and ")}`);
      drawSurface(canvas, meshes, data.surface.radius, Number(turn.value), Number(tilt.value), outline.checked);
    };
    let asked = false;
    const redraw = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; draw(); });
    };
    for (const input of [turn, tilt, outline]) input.addEventListener("input", redraw);
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY, Number(turn.value), Number(tilt.value)];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const angle = from[2] - (event.clientX - from[0]) / 2;
      turn.value = ((((angle + 180) % 360) + 360) % 360) - 180;
      tilt.value = from[3] + (event.clientY - from[1]) / 2;
      redraw();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { from = null; });
    draw();
  }

  for (const [kind, start] of [[".slices", startSlices], [".surface", startSurface]]) {
    for (const part of document.querySelectorAll(kind)) {
      start(part, JSON.parse(document.getElementById(part.dataset.source).textContent)).catch((error) => {
        const said = document.createElement("p");
        said.className = "banner mild";
        said.textContent = `Cannot be drawn by this browser: ${error.message}`;
        part.prepend(said);
      });
    }
  }

  const closed = () => Array.from(document.querySelectorAll("details:not([open])"));
  let opened = [];
  window.addEventListener("beforeprint", () => { opened = closed(); for (const part of opened) part.open = true; });
  window.addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
})();
