/** The words of the text form of graphs: names, numbers, strings, brackets; and errors with line and column. */
import { GraphError } from "../core/errors.ts";

/** Walks over a text from its first character to its last. Blanks and line ends between words do not count. */
export class Scanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** One or more items with commas between them. */
  list<T>(item: () => T): T[] {
    const out = [item()];
    while (this.take(",")) out.push(item());
    return out;
  }

  /** Items between braces, of which there may be none. */
  braces<T>(item: () => T): T[] {
    this.expect("{");
    if (this.take("}")) return [];
    const out = this.list(item);
    this.expect("}");
    return out;
  }

  /** The text between parentheses that match. */
  parenthesised(): string {
    this.expect("(");
    const start = this.#at;
    for (let depth = 1; this.#at < this.#text.length; this.#at++) {
      if (this.#text[this.#at] === "(") depth++;
      if (this.#text[this.#at] === ")" && --depth === 0) return this.#text.slice(start, this.#at++);
    }
    throw this.error('")"');
  }

  /** Everything up to a comma, a bracket or a blank outside of parentheses. */
  expression(): string {
    this.#skip();
    const start = this.#at;
    for (let depth = 0; this.#at < this.#text.length; this.#at++) {
      const c = this.#text[this.#at]!;
      if (depth === 0 && (/[,\]\s]/.test(c) || c === ")")) break;
      if (c === "(") depth++;
      if (c === ")") depth--;
    }
    return this.#text.slice(start, this.#at);
  }

  /** `%name`, or `_` for one that is left out. */
  read(): string {
    if (this.take("_")) return "";
    this.expect("%");
    return this.name();
  }

  /** A name, in quotes if it has other characters than names commonly have. */
  name(): string {
    if (this.peek() === '"') return this.string();
    const name = this.#match(/[A-Za-z0-9_./:#-]+/y);
    if (name === undefined) throw this.error("a name");
    return name;
  }

  /** Letters, digits and underscores. */
  word(): string {
    const word = this.#match(/\w+/y);
    if (word === undefined) throw this.error("a word");
    return word;
  }

  /** Digits. */
  integer(): number {
    const digits = this.#match(/\d+/y);
    if (digits === undefined) throw this.error("a number");
    return Number(digits);
  }

  /** A number as attributes are written: `1`, `1.5`, `1.5f` (to the nearest f32), `-inf`, `nan`. */
  number(): { value: number; isFloat: boolean } {
    const text = this.#match(/-?(?:inf|\d+(?:\.\d+)?(?:e[+-]?\d+)?)f?|nan/y);
    if (text === undefined) throw this.error("a value");
    if (text === "nan") return { value: NaN, isFloat: true };
    if (text.endsWith("inf")) return { value: text.startsWith("-") ? -Infinity : Infinity, isFloat: true };
    if (text.endsWith("f")) return { value: Math.fround(Number(text.slice(0, -1))), isFloat: true };
    return { value: Number(text), isFloat: /[.e]/.test(text) };
  }

  /** A text in quotes, as in JSON. */
  string(): string {
    const text = this.#match(/"(?:[^"\\\n]|\\.)*"/y);
    if (text === undefined) throw this.error("a string");
    try {
      return JSON.parse(text);
    } catch {
      throw this.error(`a string, not ${text}`);
    }
  }

  #match(pattern: RegExp): string | undefined {
    this.#skip();
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Consumes `token` if it comes next; a word only where it is not the start of a longer one. */
  take(token: string): boolean {
    this.#skip();
    if (!this.#text.startsWith(token, this.#at)) return false;
    const next = this.#text[this.#at + token.length] ?? "";
    if (/\w$/.test(token) && /\w/.test(next)) return false;
    this.#at += token.length;
    return true;
  }

  /** Consumes `token`. @throws {GraphError} If something else comes. */
  expect(token: string): void {
    if (!this.take(token)) throw this.error(JSON.stringify(token));
  }

  /** The next character, or "" at the end; it stays. */
  peek(): string {
    this.#skip();
    return this.#text[this.#at] ?? "";
  }

  /** Whether nothing more comes. */
  isEnd(): boolean {
    return this.peek() === "";
  }

  #skip(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  /** Throws that `expected` does not come here. */
  fail(expected: string): never {
    throw this.error(expected);
  }

  /** That `expected` does not come here, with the place and what comes. */
  error(expected: string): GraphError {
    const before = this.#text.slice(0, this.#at).split("\n");
    const found = this.#text.slice(this.#at).split("\n")[0]!.slice(0, 40);
    return new GraphError(
      `Cannot read graph text at ${before.length}:${before.at(-1)!.length + 1}: expected ${expected}, found ${
        found === "" ? "the end" : JSON.stringify(found)
      }`,
    );
  }
}
