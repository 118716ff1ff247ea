// Elements and figures. Whatever comes from elsewhere becomes text, never markup.

export const $ = (id) => document.getElementById(id);

/** An element. Strings among the children are text; a property that begins with "on" is a listener. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for pictures: their namespace is that of the one in the title. */
export function svg(tag, properties = {}, ...children) {
  const namespace = document.querySelector("h1 svg").namespaceURI;
  return fill(document.createElementNS(namespace, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat());
  return element;
}

const counting = new Intl.NumberFormat("en");

export const count = (number) => counting.format(Math.round(number));

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, number)) / 3));
  const value = number / 1000 ** power;
  return `${power && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** 12000 as 12k. */
export function short(number) {
  if (number >= 1e6) return `${Number((number / 1e6).toPrecision(3))}M`;
  return number >= 1e3 ? `${Number((number / 1e3).toPrecision(3))}k` : String(Number(number.toPrecision(3)));
}

export const percent = (share) =>
  share === null ? "–" : `${(100 * share).toFixed(share === 0 || share === 1 ? 0 : 1)} %`;

export const ratio = (number) => `${count(number) === "0" || number < 10 ? number.toFixed(1) : count(number)} : 1`;

/** Shows pairs of a name and a figure. */
export function figures(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** Shows what went wrong, in the words of whoever noticed, until it is dismissed. */
export function complain(error) {
  if (error.name === "AbortError") return;
  const notice = el(
    "p",
    {},
    error.message,
    el("button", { type: "button", "aria-label": "Dismiss", onclick: () => notice.remove() }, "×"),
  );
  $("notices").replaceChildren(notice);
}

/** Runs what a button asks for, shows what goes wrong, and does not let it be pressed twice meanwhile. */
export async function attempt(button, work) {
  if (button?.ariaDisabled === "true") return;
  if (button) button.ariaDisabled = "true"; // and not disabled: that would take the focus away
  try {
    $("notices").replaceChildren();
    return await work();
  } catch (error) {
    complain(error);
  } finally {
    if (button) button.ariaDisabled = null;
  }
}

/** Whether somebody is sure. */
export function sure(text) {
  const dialog = $("sure");
  $("sure-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}
