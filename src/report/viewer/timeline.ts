/// <reference lib="dom" />
/**
 * One step as a strip of time on a canvas: work above, coloured by role, collectives below, blocks underneath. The wheel
 * zooms, dragging moves, a click selects; with the focus on it, arrows go from moment to moment, + and - zoom.
 */
import type { Moment, Role } from "../view_data.ts";
import { cssColour, el, redrawn, timeText } from "./dom.ts";

/** A moment with its place in time. */
export interface Placed extends Moment {
  readonly start: number;
  readonly index: number;
}

/** What the timeline must know of a row. */
export interface TimelineOptions {
  readonly roleOf: (moment: Moment) => Role;
  /** What to say of a moment. */
  readonly describe: (moment: Moment) => string;
  readonly onSelect: (moment: Moment) => void;
}

const HEIGHT = 84, WORK = [4, 30] as const, WAIT = [36, 24] as const, BLOCKS = [64, 16] as const;

/** The strip on the page. */
export class Timeline {
  readonly element: HTMLElement;
  readonly total: number;
  readonly #moments: readonly Placed[];
  readonly #canvas: HTMLCanvasElement;
  readonly #tip: HTMLElement;
  readonly #options: TimelineOptions;
  #from = 0;
  #to: number;
  #selected: Placed | undefined;

  constructor(moments: readonly Moment[], options: TimelineOptions) {
    this.#options = options;
    let at = 0;
    this.#moments = moments.map((m, index) => {
      const placed = { ...m, start: at, index };
      at += m.seconds;
      return placed;
    });
    this.total = this.#to = at;
    this.#canvas = el("canvas", {
      attributes: {
        tabindex: "0",
        role: "application",
        "aria-label": `Timeline of one step: ${moments.length} moments, ${
          timeText(at)
        }. Arrows go from moment to moment, plus and minus zoom.`,
      },
    });
    this.#tip = el("div", { class: "tip", attributes: { role: "status" } });
    this.element = el("div", { class: "timeline" }, this.#canvas, this.#tip);
    this.#listen();
    this.#say(undefined);
    redrawn(this.element, () => this.#draw());
  }

  /** Marks the moments of a row, and tells of the first. */
  show(row: number): void {
    this.#selected = this.#moments.find((m) => m.row === row);
    this.#say(this.#selected);
    this.#draw();
  }

  #listen(): void {
    const canvas = this.#canvas;
    let drag: { x: number; from: number; moved: boolean } | undefined;
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const shift = (drag.x - event.offsetX) / canvas.clientWidth * (this.#to - this.#from);
        drag.moved ||= Math.abs(drag.x - event.offsetX) > 3;
        if (drag.moved) this.#move(drag.from + shift);
      } else this.#say(this.#at(event) ?? this.#selected);
    });
    canvas.addEventListener("pointerleave", () => this.#say(this.#selected));
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, from: this.#from, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", (event) => {
      const hit = drag?.moved ? undefined : this.#at(event);
      drag = undefined;
      if (hit) this.#select(hit);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(event.deltaY > 0 ? 1.25 : 0.8, event.offsetX / canvas.clientWidth);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step !== undefined) {
        const next = this.#moments[(this.#selected?.index ?? (step > 0 ? -1 : this.#moments.length)) + step];
        if (next) this.#select(next);
      } else if (event.key === "+" || event.key === "=") this.#zoom(0.7, 0.5);
      else if (event.key === "-") this.#zoom(1.4, 0.5);
      else return;
      event.preventDefault();
    });
  }

  #select(moment: Placed): void {
    this.#options.onSelect(moment);
    this.#selected = moment;
    if (moment.start < this.#from || moment.start + moment.seconds > this.#to) {
      this.#move(moment.start - (this.#to - this.#from) / 2);
    }
    this.#say(moment);
    this.#draw();
  }

  #zoom(by: number, around: number): void {
    const span = this.#to - this.#from, at = this.#from + around * span;
    const next = Math.min(this.total, Math.max(this.total / 5000, span * by));
    this.#from = at - around * next;
    this.#to = this.#from + next;
    this.#move(this.#from);
  }

  #move(from: number): void {
    const span = this.#to - this.#from;
    this.#from = Math.max(0, Math.min(this.total - span, from));
    this.#to = this.#from + span;
    this.#draw();
  }

  #at({ offsetX }: MouseEvent): Placed | undefined {
    const t = this.#from + offsetX / this.#canvas.clientWidth * (this.#to - this.#from);
    // Moments lie without gaps, in order.
    let low = 0, high = this.#moments.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#moments[middle]!.start <= t) low = middle;
      else high = middle - 1;
    }
    return this.#moments[low];
  }

  #say(moment: Placed | undefined): void {
    this.#tip.textContent = moment
      ? `${this.#options.describe(moment)}, at ${timeText(moment.start)}`
      : `One step, ${timeText(this.total)} in all. Point at it, or take the arrow keys.`;
  }

  #draw(): void {
    const canvas = this.#canvas, width = this.element.clientWidth, ratio = devicePixelRatio || 1;
    if (width === 0) return;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    canvas.style.height = `${HEIGHT}px`;
    const g = canvas.getContext("2d")!;
    g.scale(ratio, ratio);
    g.clearRect(0, 0, width, HEIGHT);
    const scale = width / Math.max(1e-15, this.#to - this.#from);
    const x = (t: number) => (t - this.#from) * scale;
    const colours = new Map<string, string>();
    const colour = (name: string) => {
      let c = colours.get(name);
      if (c === undefined) colours.set(name, c = cssColour(name));
      return c;
    };
    g.fillStyle = colour("--lane");
    g.fillRect(0, WORK[0], width, WORK[1]);
    g.fillRect(0, WAIT[0], width, WAIT[1]);
    for (const m of this.#moments) {
      if (m.start + m.seconds < this.#from || m.start > this.#to) continue;
      const [top, height] = m.collective ? WAIT : WORK;
      g.fillStyle = colour(m.collective ? "--collective" : `--${this.#options.roleOf(m)}`);
      const w = m.seconds * scale;
      g.fillRect(x(m.start), top, Math.max(0.75, w - (w > 4 ? 1 : 0)), height);
      if (m.row === this.#selected?.row) {
        g.fillStyle = colour("--text");
        g.fillRect(x(m.start), top + height, Math.max(2, w), 3);
      }
    }
    this.#blocks(g, x, colour);
  }

  /** The blocks, as bands with their names where there is room. */
  #blocks(g: CanvasRenderingContext2D, x: (t: number) => number, colour: (name: string) => string): void {
    const moments = this.#moments;
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    let odd = false;
    for (let i = 0; i < moments.length;) {
      let j = i + 1;
      while (j < moments.length && moments[j]!.block === moments[i]!.block) j++;
      const { block, start } = moments[i]!, end = moments[j - 1]!;
      if (block !== "") {
        const left = x(start), width = x(end.start + end.seconds) - left;
        odd = !odd;
        g.fillStyle = colour(odd ? "--band" : "--lane");
        g.fillRect(left, BLOCKS[0], width, BLOCKS[1]);
        const visible = Math.max(left, 0);
        if (g.measureText(block).width + 6 < left + width - visible) {
          g.fillStyle = colour("--soft");
          g.fillText(block, visible + 3, BLOCKS[0] + BLOCKS[1] / 2);
        }
      }
      i = j;
    }
  }
}
