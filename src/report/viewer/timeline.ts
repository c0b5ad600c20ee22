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

/** A block of layers. */
interface Band {
  readonly block: string;
  readonly start: number;
  readonly end: number;
}

/** Of how many blocks one has its name, the first that leaves room. */
const STRIDES = [1, 2, 5, 10, 20, 50, 100];
const HEIGHT = 84, WORK = [4, 30] as const, WAIT = [36, 24] as const, BLOCKS = [64, 16] as const;

/** The strip on the page. */
export class Timeline {
  readonly element: HTMLElement;
  readonly total: number;
  readonly #moments: readonly Placed[];
  readonly #bands: readonly Band[];
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
    this.#bands = bandsOf(this.#moments);
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
    this.#drawBands(g, x, colour);
  }

  /** The blocks, as bands of two shades; of many, every so many has its name. */
  #drawBands(g: CanvasRenderingContext2D, x: (t: number) => number, colour: (name: string) => string): void {
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    const [first] = this.#bands;
    if (!first) return;
    const widest = Math.max(...this.#bands.map(({ block }) => g.measureText(block).width)) + 6;
    // Blocks take about as long as each other; the first may be shorter.
    const usual = x(this.#bands.at(-1)!.end) - x(first.start);
    const every = STRIDES.find((n) => n * usual / this.#bands.length >= widest) ?? this.#bands.length;
    const labels: [string, number][] = [];
    this.#bands.forEach(({ block, start, end }, i) => {
      const left = x(start), right = x(end), visible = Math.max(left, 0);
      g.fillStyle = colour(i % 2 === 0 ? "--band" : "--lane");
      g.fillRect(left, BLOCKS[0], right - left, BLOCKS[1]);
      if (i % every !== 0 || visible > right) return;
      // What does not fit lies over the next band, which has no name then.
      if (every === 1 && g.measureText(block).width + 6 > right - visible) return;
      labels.push([block, visible + 3]);
    });
    g.fillStyle = colour("--soft");
    for (const [text, at] of labels) g.fillText(text, at, BLOCKS[0] + BLOCKS[1] / 2);
  }
}

/** The blocks of a step, each once, from where it begins to where it ends. */
function bandsOf(moments: readonly Placed[]): Band[] {
  const bands = new Map<string, { block: string; start: number; end: number }>();
  for (const { block, start, seconds } of moments) {
    if (block === "") continue;
    const band = bands.get(block);
    if (band) band.end = start + seconds;
    else bands.set(block, { block, start, end: start + seconds });
  }
  return [...bands.values()];
}
