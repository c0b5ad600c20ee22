/// <reference lib="dom" />
/** Small helpers of the viewers: elements, and numbers for people. */

/** What an element may be given: attributes, `on…` listeners, and `style` properties. */
export interface Options {
  readonly class?: string;
  readonly text?: string;
  readonly title?: string;
  readonly attributes?: Readonly<Record<string, string>>;
  readonly style?: Readonly<Record<string, string>>;
}

/** A new element with children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  options: Options = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (options.class !== undefined) element.className = options.class;
  if (options.text !== undefined) element.textContent = options.text;
  if (options.title !== undefined) element.title = options.title;
  for (const [name, value] of Object.entries(options.attributes ?? {})) element.setAttribute(name, value);
  for (const [name, value] of Object.entries(options.style ?? {})) element.style.setProperty(name, value);
  element.append(...children);
  return element;
}

/** The data that the page carries. */
export function pageData<T>(): T {
  return JSON.parse(document.getElementById("data")!.textContent!) as T;
}

/** Bytes: `9.41 kB`. */
export function bytesText(n: number): string {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (n >= size) return `${(n / size).toPrecision(3)} ${unit}`;
  }
  return `${Math.round(n)} B`;
}

/** Seconds: `1.25 ms`. */
export function timeText(s: number): string {
  if (s === 0) return "0";
  if (s >= 1) return `${s.toPrecision(3)} s`;
  return s >= 1e-3 ? `${(s * 1e3).toPrecision(3)} ms` : `${(s * 1e6).toPrecision(3)} µs`;
}

/** A number of something: `1 layer`, `2 layers`. */
export function countText(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

/** The value of a custom property of the page, for drawing. */
export function cssColour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Calls `draw` now, when the element changes its size, and when the colour scheme does. */
export function redrawn(element: Element, draw: () => void): void {
  new ResizeObserver(draw).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
