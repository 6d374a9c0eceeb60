"use strict";
// A node of the page is one module, or several similar modules (`layer.0` to `layer.11`) that are shown as one.
// Texts of the file enter the page only as `textContent` and as attribute values, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const LEVELS = 8, CHARACTER = 6.7, NARROWEST = 1.5; // rows of the plot; pixels
const KINDS = ["attention", "mlp", "norm", "embedding", "convolution", "head", "activation", "pooling", "block", "other"];
// The upper bounds of the colour steps (the last step has none), and the legend's text for each step.
const STEPS = {
  difference: [[1e-6, 1e-4, 1e-2, 1], ["\u2264 1e-6", "\u2264 1e-4", "\u2264 0.01", "\u2264 1", "> 1"]],
  bits: [[6, 12, 18, 24], ["\u2264 6 bits", "\u2264 12", "\u2264 18", "\u2264 24", "> 24"]],
  share: [[0.04, 0.16, 0.36, 0.64], ["\u2264 4 %", "\u2264 16 %", "\u2264 36 %", "\u2264 64 %", "> 64 %"]],
};

// What widths and colours mean.
const WIDTHS = {
  parameters: "number of parameters", bytes: "size of the weights in bytes", nodes: "number of ONNX nodes",
  microseconds: "time in microseconds (\u00b5s)",
};
const COLOURS = {
  kind: "kind of module", bits: "average bits per parameter",
  difference: "largest absolute difference (max abs) between the module's outputs in the two models; red border: beyond the tolerance",
};
const narrow = matchMedia("(max-width: 640px)"); // as in page.css

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

class Model {
  constructor(file) {
    this.file = file;
    this.unfolded = new Set();
    this.signatures = new Array(file.names.length);
    this.numbers = new Map();
  }

  // Modules with the same signature are similar: same classes, sizes, formats and differences at all depths. A signature
  // is a number, so that the text of a module contains the numbers of its children and not their texts.
  signature(at) {
    if (this.signatures[at] === undefined) {
      const text = JSON.stringify([
        this.file.classes[at], this.file.parameters[at], this.file.weights[at], this.differenceStep(at),
        this.file.children[at].map((child) => [this.label(child).replace(/\d+$/, ""), this.signature(child)]),
      ]);
      if (!this.numbers.has(text)) this.numbers.set(text, this.numbers.size);
      this.signatures[at] = this.numbers.get(text);
    }
    return this.signatures[at];
  }

  // The colour step of a module's difference.
  differenceStep(at) {
    const compared = this.file.compared, value = this.difference({ members: [at] });
    return compared && [value === null ? null : step("difference", value), compared.beyond[at]];
  }

  label(at) {
    return this.file.labels[at];
  }

  node(members) {
    const first = members[0], count = members.length;
    const last = this.label(members[count - 1]).match(/\d+$/);
    return {
      members, count, at: first,
      key: this.file.names[first] + (count > 1 ? "\u00d7" + count : ""),
      label: count > 1 && last ? this.label(first) + " \u2026 " + last[0] : this.label(first),
    };
  }

  // The child nodes of a node. Children of similar modules are merged; runs of similar siblings are folded into one node.
  below(node) {
    if (node.count > 1 && this.unfolded.has(node.key)) return node.members.map((member) => this.node([member]));
    const runs = [];
    for (let place = 0; place < this.file.children[node.at].length; place += 1) {
      const members = node.members.map((member) => this.file.children[member][place]);
      const before = runs[runs.length - 1];
      const alike = before && node.count === 1 && /\d$/.test(this.label(members[0])) &&
        this.signature(before[0]) === this.signature(members[0]) &&
        this.label(before[0]).replace(/\d+$/, "") === this.label(members[0]).replace(/\d+$/, "");
      if (alike) before.push(members[0]);
      else runs.push(members);
    }
    return runs.map((members) => this.node(members));
  }

  sum(node, key) {
    return node.members.reduce((total, member) => total + this.file[key][member], 0);
  }

  difference(node) {
    if (!this.file.compared) return null;
    const known = node.members.map((member) => this.file.compared.differences[member]).filter((value) => value !== null);
    return known.length ? known.map(Number).reduce((most, value) => Math.max(most, value)) : null;
  }

  beyond(node) {
    return Boolean(this.file.compared && node.members.some((member) => this.file.compared.beyond[member]));
  }
}

class View {
  constructor(section, file, index) {
    this.section = section;
    this.model = new Model(file);
    this.file = file;
    this.index = index;
    this.open = new Set();
    this.part = (kind) => section.querySelector("." + kind);
    this.body = section.querySelector("tbody");
    this.root = this.model.node([0]);
    this.path = [this.root];
    this.open.add(this.root.key);
    for (const node of this.model.below(this.root)) if (node.count === 1) this.open.add(node.key);
    for (const at of Object.keys(file.compared?.notes ?? {})) this.openTo(Number(at));
    this.part("search").addEventListener("input", () => this.rows());
    this.part("search").addEventListener("keydown", (event) => event.key === "Enter" && this.zoomToFirst());
    this.part("measure").addEventListener("change", () => this.draw());
    this.part("colour").addEventListener("change", () => this.draw());
    this.part("whole").addEventListener("click", () => this.whole());
    this.part("unfold").addEventListener("click", () => this.unfoldAll());
    this.part("facts").open = !narrow.matches;
    for (const tree of [this.part("plot"), this.body]) tree.addEventListener("focusin", (event) => this.focused(event, tree));
    this.body.addEventListener("keydown", (event) => this.pressed(event, event.target.closest("tr"), this.rowKeys));
    this.part("plot").addEventListener("keydown", (event) => this.pressed(event, event.target.closest(".box"), this.boxKeys));
    new ResizeObserver(() => this.part("plot").clientWidth === this.width || this.draw()).observe(this.part("plot"));
    this.draw();
  }

  draw() {
    this.plot();
    this.rows();
  }

  // Replaces the boxes or rows. The focus stays on the same node, or moves to the nearest module around it.
  replace(tree, made) {
    const focused = tree.contains(document.activeElement), path = (tree.current ?? []).map((node) => node.key);
    tree.replaceChildren(made);
    const shown = new Map([...tree.children].map((one) => [one.dataset.key, one]));
    const next = shown.get(path.findLast((key) => shown.has(key))) ?? tree.firstElementChild;
    next?.setAttribute("tabindex", 0);
    if (focused) next?.focus();
  }

  // Only the box or row that had the focus last is in the tab order; the arrow keys reach the others.
  focused(event, tree) {
    const one = event.target.closest("[data-key]");
    for (const other of tree.querySelectorAll(':scope > [tabindex="0"]')) other.setAttribute("tabindex", -1);
    one.setAttribute("tabindex", 0);
    tree.current = one.path;
    this.part("about").textContent = this.describe(one.path.at(-1));
  }

  whole() {
    this.part("search").value = "";
    this.path = [this.root];
    this.draw();
  }

  unfoldAll() {
    const open = (node) => {
      this.open.add(node.key);
      if (node.count > 1) this.model.unfolded.add(node.key);
      this.model.below(node).forEach(open);
    };
    open(this.root);
    this.draw();
  }

  // The colour class of a node: its kind, or one of five steps of a measure.
  colour(node) {
    const by = this.part("colour").value, sum = (key) => this.model.sum(node, key);
    if (by === "kind") return this.file.kinds[node.at];
    if (by === "difference") {
      const value = this.model.difference(node);
      return value === null ? "block" : step(by, value);
    }
    if (by === "bits") return sum("parameters") ? step(by, (8 * sum("bytes")) / sum("parameters")) : "block";
    return step("share", sum(by) / (this.model.sum(this.root, by) || 1));
  }

  caption() {
    const size = this.part("measure").value, by = this.part("colour").value;
    const colour = COLOURS[by] ?? `share of the model's ${Object.fromEntries(this.file.measures)[by].toLowerCase()}`;
    const folded = this.part("plot").querySelector(".folded") ? " Dashed border: several similar modules (\u00d7 their number)." : "";
    this.part("caption").textContent = "Each box is a module; the boxes below it are the modules inside it. " +
      `Width: ${WIDTHS[size]}. Colour: ${colour}.${folded}`;
  }

  legend() {
    const by = this.part("colour").value, legend = this.part("legend");
    legend.replaceChildren();
    const [, steps] = STEPS[by] ?? STEPS.share;
    const used = new Set(this.file.kinds);
    const entries = by === "kind" ? KINDS.filter((kind) => used.has(kind)).map((kind) => [kind, kind])
      : steps.map((text, at) => ["r" + at, text]);
    for (const [kind, text] of entries) {
      const entry = element("span"), picture = drawn("svg", { class: kind, viewBox: "0 0 12 12" });
      picture.append(drawn("rect", { width: 12, height: 12, rx: 2 }));
      entry.append(picture, text);
      legend.append(entry);
    }
  }

  plot() {
    const plot = this.part("plot"), width = plot.clientWidth || 1000, measure = this.part("measure").value;
    const height = narrow.matches ? 40 : 30;
    this.width = plot.clientWidth;
    const boxes = document.createDocumentFragment();
    let deepest = 0;
    const place = (node, path, left, span, level) => {
      deepest = Math.max(deepest, level);
      boxes.append(this.box(node, path, { left, top: level * height, span, height }, level));
      if (level + 1 >= LEVELS) return;
      const below = this.model.below(node), sizes = below.map((child) => this.model.sum(child, measure));
      const all = Math.max(this.model.sum(node, measure), sizes.reduce((total, size) => total + size, 0));
      below.forEach((child, at) => {
        const part = all ? (span * sizes[at]) / all : 0;
        if (part >= NARROWEST) place(child, [...path, child], left, part, level + 1);
        left += part;
      });
    };
    place(this.path.at(-1), this.path, 0, width, 0);
    plot.setAttribute("viewBox", `0 0 ${width} ${(deepest + 1) * height}`);
    plot.style.height = (deepest + 1) * height + "px";
    plot.dataset.level = this.file.names[this.path.at(-1).at];
    this.replace(plot, boxes);
    this.crumbs();
    this.caption();
    this.legend();
  }

  box(node, path, { left, top, span, height }, level) {
    const group = drawn("g", {
      class: "box " + this.colour(node) + (node.count > 1 ? " folded" : "") + (this.model.beyond(node) ? " beyond" : ""),
      role: "treeitem", "aria-level": level + 1, tabindex: -1,
    });
    group.append(drawn("rect", { x: left, y: top, width: span, height: height - 1, rx: 3 }));
    const title = drawn("title", {});
    title.textContent = this.describe(node);
    group.append(title);
    const full = (node.label || "(model)") + (node.count > 1 ? "  \u00d7" + node.count : ""), fitting = Math.floor((span - 8) / CHARACTER);
    if (fitting >= 3) {
      const text = drawn("text", { x: left + 5, y: top + height / 2 + 4 });
      text.textContent = full.length <= fitting ? full : full.slice(0, fitting - 1) + "\u2026";
      group.append(text);
    }
    group.dataset.key = node.key;
    group.path = path;
    group.addEventListener("mouseenter", () => (this.part("about").textContent = this.describe(node)));
    group.addEventListener("click", () => this.zoom(this.target(path)));
    return group;
  }

  // Where a click on a box leads: into the box, or out of it if the plot shows it on top.
  target(path) {
    return path.length === this.path.length && path.length > 1 ? path.slice(0, -1) : path;
  }

  // A node as text: name, class, all numbers, and its share of the model.
  describe(node) {
    const name = this.file.names[node.at] || "(model)", total = this.model.sum(this.root, this.part("measure").value);
    const parts = [`${name}${node.count > 1 ? ` and ${node.count - 1} like it` : ""}`, this.file.classes[node.at]];
    for (const [key, label] of this.file.measures) parts.push(`${number(this.model.sum(node, key))} ${label.toLowerCase()}`);
    if (total) parts.push(`${((100 * this.model.sum(node, this.part("measure").value)) / total).toFixed(1)} % of the model`);
    const value = this.model.difference(node);
    if (value !== null) parts.push("max abs " + short(value));
    if (this.model.beyond(node)) parts.push("beyond the tolerance");
    return parts.filter(Boolean).join(" \u00b7 ");
  }

  crumbs() {
    const crumbs = this.part("crumbs");
    crumbs.replaceChildren();
    this.path.forEach((node, at) => {
      const button = element("button", (at ? "\u203a " : "") + (node.label || "(model)"));
      button.type = "button";
      if (at === this.path.length - 1) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this.zoom(this.path.slice(0, at + 1)));
      crumbs.append(button);
    });
  }

  zoom(path) {
    this.path = path;
    this.plot();
  }

  // The table: the open part of the tree, or the results of a search.
  rows() {
    const words = this.part("search").value.toLowerCase().split(/\s+/).filter(Boolean), rows = [];
    const main = this.part("measure").value;
    for (const cell of this.part("scroll").querySelectorAll("th[data-key]")) cell.classList.toggle("minor", cell.dataset.key !== main);
    this.found = null;
    if (words.length) {
      this.file.names.forEach((name, at) => {
        const text = (name + " " + this.file.classes[at]).toLowerCase();
        if (words.every((word) => text.includes(word))) rows.push([this.model.node([at]), this.pathTo(at), 1, false]);
      });
      this.found = rows[0] ?? null;
    } else {
      const walk = (node, path, level) => {
        const below = this.model.below(node), open = this.open.has(node.key);
        rows.push([node, path, level, below.length > 0]);
        if (open) below.forEach((child) => walk(child, [...path, child], level + 1));
      };
      walk(this.root, [this.root], 1);
    }
    this.part("found").textContent = words.length ? `${rows.length} of ${this.file.names.length} modules` : "";
    const made = document.createDocumentFragment();
    for (const row of rows) made.append(this.row(...row, words.length > 0));
    this.replace(this.body, made);
  }

  row(node, path, level, hasBelow, flat) {
    const row = element("tr"), head = element("td"), open = this.open.has(node.key);
    row.dataset.key = node.key;
    row.tabIndex = -1;
    row.setAttribute("aria-level", level);
    if (hasBelow) row.setAttribute("aria-expanded", open);
    row.path = path;
    head.style.setProperty("--level", level - 1);
    const twist = element("button", hasBelow ? (open ? "\u25be" : "\u25b8") : "", "twist");
    twist.tabIndex = -1;
    twist.setAttribute("aria-hidden", "true");
    twist.addEventListener("click", () => this.toggle(node));
    const link = element("a", (flat ? this.file.names[node.at] : node.label) || "(model)");
    link.href = "#" + encodeURIComponent(this.index + ":" + this.file.names[node.at]);
    link.tabIndex = -1;
    link.addEventListener("click", () => this.zoom(path));
    head.append(twist, link);
    if (node.count > 1) head.append(element("span", "\u00d7" + node.count, "count"));
    head.append(element("span", this.file.classes[node.at], "class"));
    for (const member of node.members) {
      const note = this.file.compared?.notes[member];
      if (note) head.append(element("span", note, "note"));
    }
    row.append(head);
    for (const [key] of this.file.measures) row.append(element("td", number(this.model.sum(node, key), narrow.matches), key === this.part("measure").value ? "" : "minor"));
    if (this.file.mixed) {
      row.append(element("td", this.file.weights[node.at], "minor"), element("td", number(this.model.sum(node, "saved")), "minor"));
    }
    if (this.file.compared) {
      const value = this.model.difference(node);
      row.append(element("td", value === null ? "" : short(value), this.model.beyond(node) ? "beyond" : ""));
    }
    return row;
  }

  toggle(node) {
    if (node.count > 1) this.model.unfolded.add(node.key);
    if (!this.open.delete(node.key)) this.open.add(node.key);
    else if (node.count > 1) this.model.unfolded.delete(node.key);
    this.draw();
    this.row_of(node.key)?.focus();
  }

  row_of(key) {
    return [...this.body.rows].find((row) => row.dataset.key === key);
  }

  // Keys of the table: https://www.w3.org/WAI/ARIA/apg/patterns/treegrid/
  rowKeys(row, node) {
    const open = row.getAttribute("aria-expanded");
    return {
      ArrowDown: () => row.nextElementSibling?.focus(),
      ArrowUp: () => row.previousElementSibling?.focus(),
      Home: () => this.body.firstElementChild.focus(),
      End: () => this.body.lastElementChild.focus(),
      ArrowRight: () => (open === "false" ? this.toggle(node) : open === "true" && row.nextElementSibling?.focus()),
      ArrowLeft: () => (open === "true" ? this.toggle(node) : this.row_of(row.path[row.path.length - 2]?.key)?.focus()),
      Enter: () => this.zoom(row.path),
    };
  }

  // Keys of the plot, a horizontal tree: https://www.w3.org/WAI/ARIA/apg/patterns/treeview/
  // Left and Right stay on a level. Down leads to the first module inside, Up to the module around.
  boxKeys(box, node) {
    const boxes = [...this.part("plot").children], depth = box.path.length;
    const level = boxes.filter((one) => one.path.length === depth), at = level.indexOf(box);
    return {
      ArrowRight: () => level[at + 1]?.focus(),
      ArrowLeft: () => level[at - 1]?.focus(),
      ArrowDown: () => boxes.find((one) => one.path.length === depth + 1 && one.path[depth - 1] === node)?.focus(),
      ArrowUp: () => boxes.find((one) => one.path.length === depth - 1 && box.path.includes(one.path.at(-1)))?.focus(),
      Home: () => boxes[0].focus(),
      End: () => boxes.at(-1).focus(),
      Enter: () => this.zoom(this.target(box.path)),
      " ": () => this.zoom(this.target(box.path)),
    };
  }

  pressed(event, one, keys) {
    const act = one && keys.call(this, one, one.path.at(-1))[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  pathTo(at) {
    const chain = [];
    for (let one = at; one >= 0; one = this.file.parents[one]) chain.unshift(this.model.node([one]));
    return chain;
  }

  zoomToFirst() {
    if (this.found) this.zoom(this.found[1]);
  }

  // Opens and unfolds the modules around a module. Returns the path to it, or null if no such module exists.
  openTo(at) {
    const path = [this.root];
    for (const outer of this.pathTo(at).slice(1)) {
      for (;;) {
        const below = this.model.below(path[path.length - 1]);
        const next = below.find((node) => node.members.includes(outer.at));
        if (!next) return null;
        this.open.add(path[path.length - 1].key);
        path.push(next);
        if (next.count === 1) break;
        this.model.unfolded.add(next.key);
      }
    }
    return path;
  }

  // A link to a module opens and marks it.
  show(name) {
    const at = this.file.names.indexOf(name), path = at < 0 ? null : this.openTo(at);
    if (!path) return;
    this.part("search").value = "";
    this.draw();
    for (const marked of document.querySelectorAll(".marked")) marked.classList.remove("marked");
    const row = this.row_of(path[path.length - 1].key);
    row?.classList.add("marked");
    row?.scrollIntoView({ block: "center" });
    for (const box of this.part("plot").children) box.classList.toggle("marked", box.dataset.key === path[path.length - 1].key);
  }
}

function step(measure, value) {
  const at = STEPS[measure][0].findIndex((bound) => value <= bound);
  return "r" + (at < 0 ? 4 : at);
}

function short(value) {
  return Number.isFinite(value) ? value.toPrecision(3) : "inf";
}

function number(value, compact = false) {
  return value.toLocaleString("en", compact ? { notation: "compact", maximumFractionDigits: 1 } : { maximumFractionDigits: 0 });
}

const views = JSON.parse(document.getElementById("report").textContent)
  .map((file, index) => new View(document.getElementById("file-" + index), file, index));

// Shows the module that the address names.
function follow() {
  let wanted;
  try {
    wanted = decodeURIComponent(location.hash.slice(1));
  } catch {
    return;
  }
  const cut = wanted.indexOf(":");
  views[Number(wanted.slice(0, cut))]?.show(wanted.slice(cut + 1));
}

// The button overrides the system's setting until the system's setting changes.
const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name;
}
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
document.querySelector(".theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  const view = views.find((one) => one.section.contains(document.activeElement)) ?? views[0];
  if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement?.tagName ?? "")) {
    event.preventDefault();
    view.part("search").focus();
  } else if (event.key === "Escape") {
    view.whole();
  }
});
if (location.hash) follow();
