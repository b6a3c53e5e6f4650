// The few things done to the page. Texts become text nodes only: statements and messages come from
// strangers.

export const byId = (id) => document.getElementById(id);

export function setText(node, text) {
  const wanted = text ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  good: ["M5 10.5l3.4 3.4L15.2 7"],
  bad: ["M10 5v6.2", "M10 14.6v.1"],
  warn: ["M10 5v6.2", "M10 14.6v.1"],
  paused: ["M7.5 6v8", "M12.5 6v8"],
  wait: ["M10 5.5V10l3 2"],
  gone: ["M6 6l8 8", "M14 6l-8 8"],
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  for (const d of ICONS[name] ?? []) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/**
 * Make the children of `parent` be one node per item, in order, keeping the nodes that are there:
 * focus, selection and what somebody has opened survive an update.
 */
export function reconcile(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = known.get(key);
    known.delete(key);
    if (!node) {
      node = create(item);
      node.dataset.key = key;
    }
    update?.(node, item);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of known.values()) node.remove();
}
