/**
 * Turns a stream of token ids into a stream of text, without ever showing half a character or the beginning of a stop string.
 *
 * A token may hold part of a UTF-8 character, and a decoder may join tokens (a leading space is dropped at the start of a
 * text but not inside), so ids are never decoded alone: the new text is the difference between decoding a short window with and
 * without the new ids. The window starts where the last text was complete, so the work per token does not grow.
 */

/** Decodes ids, marking an incomplete character by U+FFFD, as {@linkcode Tokenizer} does. */
export type Decode = (ids: readonly number[]) => string;

const REPLACEMENT = "\uFFFD";
/** A UTF-8 character in the making has at most three bytes: three tokens, that show as three U+FFFD at most. */
const MOST_INCOMPLETE = 3;
/** With so many ids waiting, some U+FFFD among them is what the model means, not a character in the making. */
const MANY_WAITING = 6;
/** A window of more ids is never kept as context. */
const MOST_CONTEXT = 12;

/** Incremental detokenisation. */
export class TextStream {
  readonly #decode: Decode;
  /** The last ids whose text is out, as context, then the ids whose text is not. */
  #window: number[] = [];
  /** How many of the window are context. */
  #context = 0;
  /** What of the window's text is out. */
  #shown = "";

  constructor(decode: Decode) {
    this.#decode = decode;
  }

  /** The text that `id` completes; empty while a character is incomplete. */
  push(id: number): string {
    this.#window.push(id);
    const text = this.#decode(this.#window);
    if (!text.endsWith(REPLACEMENT)) return this.#take(text);
    const waiting = this.#window.length - this.#context;
    if (waiting < MANY_WAITING) return "";
    const { length } = this.#window;
    for (let complete = length - MOST_INCOMPLETE; complete < length; complete++) {
      const before = this.#decode(this.#window.slice(0, complete)), rest = this.#window.slice(complete);
      // A character that was cut in two would show as two U+FFFD.
      if (before + this.#decode(rest) !== text) continue;
      this.#window.length = complete;
      const fresh = this.#take(before);
      this.#window.push(...rest);
      return fresh;
    }
    // Characters end inside of tokens: what is certain goes out, and all ids stay.
    const open = /\uFFFD{1,3}$/.exec(text)![0].length, certain = text.slice(0, text.length - open);
    if (!certain.startsWith(this.#shown)) return "";
    const fresh = certain.slice(this.#shown.length);
    this.#shown = certain;
    return fresh;
  }

  /** What is left at the end: an incomplete character shows as U+FFFD. */
  end(): string {
    return this.#take(this.#decode(this.#window));
  }

  #take(text: string): string {
    // A special token decodes to nothing; and a decoder that rewrites earlier text must not make us repeat it.
    const fresh = text.startsWith(this.#shown) ? text.slice(this.#shown.length) : "";
    if (fresh === "") {
      if (this.#window.length > MOST_CONTEXT) this.#restart(text);
      return "";
    }
    this.#restart(text);
    return fresh;
  }

  /** Keeps only the newest ids as context. */
  #restart(text: string): void {
    const newest = this.#window.slice(this.#context);
    this.#window = newest.length > 0 ? newest : this.#window;
    this.#context = this.#window.length;
    this.#shown = newest.length > 0 ? this.#decode(this.#window) : text;
  }
}

/** Ends a text at the first of some strings, holding back what may be the beginning of one. */
export class StopStrings {
  readonly #strings: readonly string[];
  #held = "";
  #stopped = false;

  /** Empty strings are ignored. */
  constructor(strings: readonly string[]) {
    this.#strings = strings.filter((s) => s !== "");
  }

  /** Whether a stop string has come; all later text is swallowed. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** The part of the text so far that may be shown now and was not before. */
  push(text: string): string {
    if (this.#stopped) return "";
    const all = this.#held + text;
    const at = this.#strings.map((s) => all.indexOf(s)).filter((i) => i >= 0);
    if (at.length > 0) {
      this.#stopped = true;
      this.#held = "";
      return all.slice(0, Math.min(...at));
    }
    const keep = Math.max(0, ...this.#strings.map((s) => overlap(all, s)));
    this.#held = all.slice(all.length - keep);
    return all.slice(0, all.length - keep);
  }

  /** What was held back, at the end of the text. */
  end(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }
}

/** The length of the longest proper beginning of `stop` with which `text` ends. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(stop.length - 1, text.length); n > 0; n--) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}
