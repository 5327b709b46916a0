// @ts-check
/** The few things that every module does with the document. Text is only ever set as text, never read as HTML. */

/**
 * The element with this id, which the page has.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * A new element with a class and children; strings become text.
 * @param {string} tag
 * @param {string} [name]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(tag, name = "", ...children) {
  const made = document.createElement(tag);
  if (name !== "") made.className = name;
  made.append(...children);
  return made;
}

/**
 * Set text, only where it differs: nothing moves, and nothing is announced, that has not changed.
 * @param {Node} node
 * @param {string} text
 */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` those of `entries`, in order; a child is kept for as long as its key is there.
 * @template T
 * @param {HTMLElement} parent
 * @param {T[]} entries
 * @param {(entry: T) => string} keyOf
 * @param {() => HTMLElement} create
 * @param {(child: HTMLElement, entry: T) => void} update
 */
export function keyed(parent, entries, keyOf, create, update) {
  /** @type {Map<string, HTMLElement>} */
  const known = new Map();
  for (const child of /** @type {Iterable<HTMLElement>} */ (parent.children)) known.set(child.dataset.key ?? "", child);
  entries.forEach((entry, at) => {
    const key = keyOf(entry);
    let child = known.get(key);
    if (child === undefined) {
      child = create();
      child.dataset.key = key;
    }
    known.delete(key);
    update(child, entry);
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  for (const gone of known.values()) gone.remove();
}

/**
 * A list of labelled bars.
 * @param {HTMLElement} list
 * @param {{key: string, label: string, value: number, shown: string, bad?: boolean, title?: string}[]} rows
 * @param {number} [full] the value of a full bar; default: the sum
 */
export function bars(list, rows, full) {
  const whole = full ?? rows.reduce((sum, row) => sum + row.value, 0);
  keyed(list, rows, (row) => row.key, bar, (child, row) => {
    const [fill, label, count] = /** @type {HTMLElement[]} */ ([...child.children]);
    fill.style.width = `${whole > 0 ? Math.min(100, (100 * row.value) / whole) : 0}%`;
    say(label, row.label);
    say(count, row.shown);
    child.classList.toggle("bad", row.bad === true);
    child.title = row.title ?? "";
  });
}

function bar() {
  const fill = make("span", "fill");
  fill.setAttribute("aria-hidden", "true");
  return make("li", "", fill, make("span", "label"), make("span", "count"));
}
