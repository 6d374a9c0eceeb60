"use strict";
// A node of the page stands for one module, or for several that are alike (`layer.0` to `layer.11`) and shown as one.
// What the file says enters the page through `textContent` and attributes of its own making alone.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 30, LEVELS = 8, CHARACTER = 6.7, NARROWEST = 1.5;
const KINDS = ["attention", "mlp", "norm", "embedding", "convolution", "head", "activation", "pooling", "block", "other"];
// Where each step of colour ends, the last aside, and the words for each step in the legend.
const STEPS = {
  difference: [[1e-6, 1e-4, 1e-2, 1], ["\u2264 1e-6", "\u2264 1e-4", "\u2264 0.01", "\u2264 1", "> 1"]],
  bits: [[6, 12, 18, 24], ["\u2264 6 bits", "\u2264 12", "\u2264 18", "\u2264 24", "> 24"]],
  share: [[0.04, 0.16, 0.36, 0.64], ["\u2264 4 %", "\u2264 16 %", "\u2264 36 %", "\u2264 64 %", "> 64 %"]],
};

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

  // Modules with one signature are alike: classes, sizes, formats and differences, all the way down. A signature is a
  // number, so that the text that it is found by does not hold the texts of all modules inside.
  signature(at) {
    if (this.signatures[at] === undefined) {
      const text = JSON.stringify([
        this.file.classes[at], this.file.parameters[at], this.file.weights[at], this.apart(at),
        this.file.children[at].map((child) => [this.label(child).replace(/\d+$/, ""), this.signature(child)]),
      ]);
      if (!this.numbers.has(text)) this.numbers.set(text, this.numbers.size);
      this.signatures[at] = this.numbers.get(text);
    }
    return this.signatures[at];
  }

  // How a module differs, as coarsely as the colours show it.
  apart(at) {
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

  // The nodes right below one: those of alike modules are merged, and runs of siblings that are alike are folded.
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
    this.model = new Model(file);
    this.file = file;
    this.index = index;
    this.open = new Set();
    this.at = (kind) => section.querySelector("." + kind);
    this.body = section.querySelector("tbody");
    this.root = this.model.node([0]);
    this.path = [this.root];
    this.open.add(this.root.key);
    for (const node of this.model.below(this.root)) if (node.count === 1) this.open.add(node.key);
    for (const at of Object.keys(file.compared?.notes ?? {})) this.openTo(Number(at));
    this.at("search").addEventListener("input", () => this.rows());
    this.at("search").addEventListener("keydown", (event) => event.key === "Enter" && this.zoomToFirst());
    this.at("measure").addEventListener("change", () => this.draw());
    this.at("colour").addEventListener("change", () => this.draw());
    this.at("whole").addEventListener("click", () => this.whole());
    this.at("unfold").addEventListener("click", () => this.unfoldAll());
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    new ResizeObserver(() => this.plot()).observe(this.at("plot"));
    this.draw();
  }

  draw() {
    this.plot();
    this.rows();
  }

  whole() {
    this.at("search").value = "";
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

  // Colours: by kind, or five steps of a measure.
  colour(node) {
    const by = this.at("colour").value, part = (key) => this.model.sum(node, key);
    if (by === "kind") return this.file.kinds[node.at];
    if (by === "difference") {
      const value = this.model.difference(node);
      return value === null ? "block" : step(by, value);
    }
    if (by === "bits") return part("parameters") ? step(by, (8 * part("bytes")) / part("parameters")) : "block";
    return step("share", part(by) / (this.model.sum(this.root, by) || 1));
  }

  legend() {
    const by = this.at("colour").value, legend = this.at("legend");
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
    const plot = this.at("plot"), width = plot.clientWidth || 1000, measure = this.at("measure").value;
    const boxes = document.createDocumentFragment();
    let deepest = 0;
    const place = (node, path, left, span, level) => {
      deepest = Math.max(deepest, level);
      boxes.append(this.box(node, path, left, span, level));
      if (level + 1 >= LEVELS) return;
      const below = this.model.below(node), sizes = below.map((child) => this.model.sum(child, measure));
      const all = Math.max(this.model.sum(node, measure), sizes.reduce((total, size) => total + size, 0));
      below.forEach((child, at) => {
        const part = all ? (span * sizes[at]) / all : 0;
        if (part >= NARROWEST) place(child, [...path, child], left, part, level + 1);
        left += part;
      });
    };
    place(this.path[this.path.length - 1], this.path, 0, width, 0);
    const height = (deepest + 1) * ROW;
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.style.height = height + "px";
    plot.dataset.level = this.file.names[this.path[this.path.length - 1].at];
    plot.replaceChildren(boxes);
    this.crumbs();
    this.legend();
  }

  box(node, path, left, span, level) {
    const group = drawn("g", { class: "box " + this.colour(node) + (node.count > 1 ? " folded" : "") + (this.model.beyond(node) ? " beyond" : "") });
    group.append(drawn("rect", { x: left, y: level * ROW, width: span, height: ROW - 1, rx: 3 }));
    const title = drawn("title", {});
    title.textContent = this.told(node);
    group.append(title);
    const full = (node.label || "(model)") + (node.count > 1 ? "  \u00d7" + node.count : ""), room = Math.floor((span - 8) / CHARACTER);
    if (room >= 3) {
      const text = drawn("text", { x: left + 5, y: level * ROW + 19 });
      text.textContent = full.length <= room ? full : full.slice(0, room - 1) + "\u2026";
      group.append(text);
    }
    group.dataset.key = node.key;
    group.addEventListener("mouseenter", () => (this.at("about").textContent = this.told(node)));
    group.addEventListener("click", () => this.zoom(level === 0 && path.length > 1 ? path.slice(0, -1) : path));
    return group;
  }

  told(node) {
    const name = this.file.names[node.at] || "(model)", total = this.model.sum(this.root, this.at("measure").value);
    const parts = [`${name}${node.count > 1 ? ` and ${node.count - 1} like it` : ""}`, this.file.classes[node.at]];
    for (const [key, label] of this.file.measures) parts.push(`${number(this.model.sum(node, key))} ${label.toLowerCase()}`);
    if (total) parts.push(`${((100 * this.model.sum(node, this.at("measure").value)) / total).toFixed(1)} %`);
    const value = this.model.difference(node);
    if (value !== null) parts.push("max abs " + short(value));
    if (this.model.beyond(node)) parts.push("beyond the tolerance");
    return parts.filter(Boolean).join(" \u00b7 ");
  }

  crumbs() {
    const crumbs = this.at("crumbs");
    crumbs.replaceChildren();
    if (this.path.length === 1) return;
    this.path.forEach((node, at) => {
      const button = element("button", (at ? " \u203a " : "") + (node.label || "(model)"));
      button.type = "button";
      button.addEventListener("click", () => this.zoom(this.path.slice(0, at + 1)));
      crumbs.append(button);
    });
  }

  zoom(path) {
    this.path = path;
    this.plot();
  }

  // The table: what is open of the tree, or what a search finds.
  rows() {
    const words = this.at("search").value.toLowerCase().split(/\s+/).filter(Boolean), rows = [];
    const main = this.at("measure").value;
    for (const cell of this.at("scroll").querySelectorAll("th[data-key]")) cell.classList.toggle("minor", cell.dataset.key !== main);
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
    this.at("found").textContent = words.length ? `${rows.length} of ${this.file.names.length} modules` : "";
    const made = document.createDocumentFragment();
    rows.forEach((row, at) => made.append(this.row(...row, words.length > 0, at)));
    this.body.replaceChildren(made);
  }

  row(node, path, level, hasBelow, flat, at) {
    const row = element("tr"), head = element("td"), open = this.open.has(node.key);
    row.dataset.key = node.key;
    row.tabIndex = at ? -1 : 0;
    row.setAttribute("aria-level", level);
    if (hasBelow) row.setAttribute("aria-expanded", open);
    row.path = path;
    head.style.paddingLeft = `${0.3 + (level - 1) * 0.9}rem`;
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
    for (const [key] of this.file.measures) row.append(element("td", number(this.model.sum(node, key)), key === this.at("measure").value ? "" : "minor"));
    if (this.file.mixed) {
      row.append(element("td", this.file.weights[node.at], "minor"), element("td", number(this.model.sum(node, "saved")), "minor"));
    }
    if (this.file.compared) {
      const value = this.model.difference(node);
      row.append(element("td", value === null ? "" : short(value), this.model.beyond(node) ? "beyond" : ""));
    }
    row.addEventListener("focus", () => (this.at("about").textContent = this.told(node)));
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

  // Keys as in the pattern of a tree grid: https://www.w3.org/WAI/ARIA/apg/patterns/treegrid/
  pressed(event) {
    const row = event.target.closest("tr"), node = row?.path[row.path.length - 1];
    if (!node) return;
    const open = row.getAttribute("aria-expanded");
    const acts = {
      ArrowDown: () => row.nextElementSibling?.focus(),
      ArrowUp: () => row.previousElementSibling?.focus(),
      Home: () => this.body.rows[0].focus(),
      End: () => this.body.rows[this.body.rows.length - 1].focus(),
      ArrowRight: () => (open === "false" ? this.toggle(node) : open === "true" && row.nextElementSibling?.focus()),
      ArrowLeft: () => (open === "true" ? this.toggle(node) : this.row_of(row.path[row.path.length - 2]?.key)?.focus()),
      Enter: () => this.zoom(row.path),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  pathTo(at) {
    const chain = [];
    for (let one = at; one >= 0; one = this.file.parents[one]) chain.unshift(this.model.node([one]));
    return chain;
  }

  zoomToFirst() {
    if (this.found) this.zoom(this.found[1]);
  }

  // Opens all that a module is in, and unfolds what it is folded into; returns the path to it, null where there is none.
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
    this.at("search").value = "";
    this.draw();
    for (const marked of document.querySelectorAll(".marked")) marked.classList.remove("marked");
    const row = this.row_of(path[path.length - 1].key);
    row?.classList.add("marked");
    row?.scrollIntoView({ block: "center" });
    for (const box of this.at("plot").children) box.classList.toggle("marked", box.dataset.key === path[path.length - 1].key);
  }
}

function step(measure, value) {
  const at = STEPS[measure][0].findIndex((bound) => value <= bound);
  return "r" + (at < 0 ? 4 : at);
}

function short(value) {
  return Number.isFinite(value) ? value.toPrecision(3) : "inf";
}

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 0 });
}

const views = JSON.parse(document.getElementById("report").textContent)
  .map((file, index) => new View(document.getElementById("file-" + index), file, index));

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

const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name;
}
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
document.querySelector(".theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  const view = views.find((one) => one.at("scroll").contains(document.activeElement)) ?? views[0];
  if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement?.tagName ?? "")) {
    event.preventDefault();
    view.at("search").focus();
  } else if (event.key === "Escape") {
    view.whole();
  }
});
if (location.hash) follow();
