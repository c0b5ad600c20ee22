/// <reference lib="dom" />
/** The spans of all ranks, a lane a rank, on a canvas. The wheel zooms, dragging moves; with the focus, arrows and + and - do. */
import type { TraceView } from "../trace_view.ts";
import { cssColour, el, redrawn, timeText } from "./dom.ts";

const LANE = 34, GAP = 8, AXIS = 20, LABEL = 62;
const COLOURS = ["--band", "--column", "--waiting", "--collective"] as const;

type Span = TraceView["spans"][number][number];

/** The lanes on the page. */
export class Lanes {
  readonly element: HTMLElement;
  readonly #view: TraceView;
  readonly #canvas: HTMLCanvasElement;
  readonly #tip: HTMLElement;
  readonly #end: number;
  #from: number;
  #to: number;

  constructor(view: TraceView) {
    this.#view = view;
    this.#end = Math.max(1e-9, ...view.spans.flatMap((spans) => spans.map((s) => s[3])));
    [this.#from, this.#to] = this.#firstLook();
    this.#canvas = el("canvas", {
      attributes: {
        tabindex: "0",
        role: "application",
        "aria-label": `Timeline of ${view.spans.length} ranks. Left and right move, plus and minus zoom, 0 shows all.`,
      },
    });
    this.#tip = el("div", { class: "tip", attributes: { role: "status" } });
    this.element = el("div", { class: "timeline" }, this.#canvas, this.#tip);
    this.#listen();
    this.#say(undefined);
    redrawn(this.element, () => this.#draw());
  }

  /** A few steps after the first, or all. */
  #firstLook(): [number, number] {
    const steps = (this.#view.spans[0] ?? []).filter((s) => s[0] === 0);
    const [, second] = steps;
    if (!second) return [0, this.#end];
    const last = steps[Math.min(steps.length - 1, 2)]!;
    return [second[2], Math.min(this.#end, last[3])];
  }

  #listen(): void {
    const canvas = this.#canvas;
    let drag: { x: number; from: number } | undefined;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, from: this.#from };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => drag = undefined);
    canvas.addEventListener("pointermove", (event) => {
      if (drag) this.#move(drag.from + (drag.x - event.offsetX) / this.#width() * (this.#to - this.#from));
      else this.#say(this.#at(event), Math.floor(event.offsetY / (LANE + GAP)));
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.offsetX - LABEL) / this.#width());
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const span = this.#to - this.#from;
      if (event.key === "ArrowRight") this.#move(this.#from + span / 5);
      else if (event.key === "ArrowLeft") this.#move(this.#from - span / 5);
      else if (event.key === "+" || event.key === "=") this.#zoom(0.7, 0.5);
      else if (event.key === "-") this.#zoom(1.4, 0.5);
      else if (event.key === "0") this.#zoom(Infinity, 0);
      else return;
      event.preventDefault();
    });
  }

  #width(): number {
    return Math.max(1, this.#canvas.clientWidth - LABEL);
  }

  #zoom(by: number, around: number): void {
    const span = this.#to - this.#from, at = this.#from + around * span;
    const next = Math.min(this.#end, Math.max(0.002, span * by));
    this.#from = at - around * next;
    this.#to = this.#from + next;
    this.#move(this.#from);
  }

  #move(from: number): void {
    const span = this.#to - this.#from;
    this.#from = Math.max(0, Math.min(this.#end - span, from));
    this.#to = this.#from + span;
    this.#draw();
  }

  #at({ offsetX, offsetY }: MouseEvent): Span | undefined {
    const spans = this.#view.spans[Math.floor(offsetY / (LANE + GAP))];
    const t = this.#from + (offsetX - LABEL) / this.#width() * (this.#to - this.#from);
    // The innermost stands last.
    return spans?.findLast((s) => s[2] <= t && t <= s[3]);
  }

  #say(span: Span | undefined, rank = 0): void {
    const { kinds, names } = this.#view;
    this.#tip.textContent = span
      ? `rank ${rank}, step ${span[4]}: ${kinds[span[0]]}${span[0] === 0 ? "" : ` ${names[span[1]]}`}, ${
        timeText((span[3] - span[2]) / 1e3)
      } from ${timeText(span[2] / 1e3)}`
      : `${timeText((this.#to - this.#from) / 1e3)} of ${
        timeText(this.#end / 1e3)
      }. The wheel or + and − zoom, dragging or arrows move, 0 shows all.`;
  }

  #draw(): void {
    const canvas = this.#canvas, full = this.element.clientWidth, ratio = devicePixelRatio || 1;
    if (full === 0) return;
    const height = this.#view.spans.length * (LANE + GAP) + AXIS;
    canvas.width = full * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const g = canvas.getContext("2d")!;
    g.scale(ratio, ratio);
    g.clearRect(0, 0, full, height);
    const width = full - LABEL, scale = width / (this.#to - this.#from);
    const colours = COLOURS.map(cssColour),
      text = cssColour("--text"),
      soft = cssColour("--soft"),
      lane = cssColour("--lane");
    g.font = "12px system-ui, sans-serif";
    g.textBaseline = "middle";
    this.#view.spans.forEach((spans, rank) => {
      const top = rank * (LANE + GAP);
      g.fillStyle = text;
      g.fillText(`rank ${rank}`, 0, top + LANE / 2);
      g.save();
      g.beginPath();
      g.rect(LABEL, top, width, LANE);
      g.clip();
      g.fillStyle = lane;
      g.fillRect(LABEL, top, width, LANE);
      for (const [kind, name, start, end] of spans) {
        if (end < this.#from || start > this.#to) continue;
        const x = LABEL + (start - this.#from) * scale, w = (end - start) * scale;
        // A step frames its parts.
        const inset = kind === 0 ? 0 : 5;
        g.fillStyle = colours[kind]!;
        g.fillRect(x, top + inset, Math.max(0.6, w - (w > 3 ? 0.7 : 0)), LANE - 2 * inset);
        if (kind === 1 && w > 60) {
          g.fillStyle = cssColour("--on-colour");
          g.fillText(fitted(g, this.#view.names[name]!, w - 8), x + 4, top + LANE / 2);
        }
      }
      g.restore();
    });
    g.fillStyle = soft;
    const ticks = Math.max(2, Math.floor(width / 170));
    for (let i = 0; i <= ticks; i++) {
      const t = this.#from + (this.#to - this.#from) * i / ticks, label = `${t.toFixed(2)} ms`;
      const x = LABEL + (t - this.#from) * scale;
      g.fillText(label, Math.min(x, full - g.measureText(label).width), height - AXIS / 2);
    }
    if (this.#tip.textContent!.includes("The wheel")) this.#say(undefined);
  }
}

/** The end of a name that fits, which tells more than its beginning. */
function fitted(g: CanvasRenderingContext2D, name: string, width: number): string {
  if (g.measureText(name).width <= width) return name;
  const fits = Math.floor(name.length * width / g.measureText(name).width) - 1;
  return fits < 3 ? "" : `…${name.slice(-fits)}`;
}
