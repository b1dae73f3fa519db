// Making and changing parts of the page. Data only ever becomes text or the value of an attribute.

const SVG = "http://www.w3.org/2000/svg";

/** The element with that id. */
export function by(id) {
  return document.getElementById(id);
}

function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    attribute(node, name, value);
  }
  for (const child of children) {
    if (child !== null && child !== undefined) {
      node.append(child);
    }
  }
  return node;
}

/** An element of HTML. */
export function el(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, name), attributes, children);
}

/** Sets an attribute, or takes it away for null, undefined and false; touches nothing that is so already. */
export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) {
      node.removeAttribute(name);
    }
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) {
    node.setAttribute(name, text);
  }
}

/** Sets a text; touches nothing that is so already, so that selections stay and nothing is read out twice. */
export function text(node, value) {
  const wanted = String(value ?? "");
  if (node.textContent !== wanted) {
    node.textContent = wanted;
  }
}

/** Shows or hides. */
export function show(node, shown) {
  if (node.hidden === shown) {
    node.hidden = !shown;
  }
}

/**
 * Makes the children of `parent` those of `items`, in their order. What is there already stays, with
 * its focus; `make` is called for what is new, `update` for all.
 */
export function keyed(parent, items, keyOf, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (wanted.has(key)) {
      continue;
    }
    wanted.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      known.set(key, node);
    }
    if (node === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(node, place);
    }
    update(node, item);
  }
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}

/** The parts of `node` that have a name in `data-part`. */
export function parts(node) {
  const found = {};
  for (const part of node.querySelectorAll("[data-part]")) {
    found[part.dataset.part] = part;
  }
  return found;
}
