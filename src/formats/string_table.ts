/** The strings of a file, each made once: names of values stand in every node that reads them. */

/** Bytes that are decoded at a time, as strings are then parts of one. */
const CHUNK = 1 << 16;
/** Strings that are longer are seldom names, and are made anew. */
const LONGEST = 512;

/** Strings by where they stand in `bytes`; equal ones are the same. */
export class StringTable {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  readonly #latin1 = new TextDecoder("latin1");
  /** Index of a string + 1 by hash, with open addressing; as long as a power of two. */
  #slots: Int32Array;
  readonly #strings: string[] = [];
  readonly #starts: number[] = [];
  readonly #hashes: number[] = [];
  /** The chunk that was decoded last. */
  #text = "";
  #textStart = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    // A graph without weights has about a string in 64 bytes.
    this.#slots = new Int32Array(1 << Math.min(17, Math.max(10, 32 - Math.clz32(bytes.length >>> 5))));
  }

  /** The UTF-8 text of the bytes from `start` to `end`. @throws {TypeError} If it is none. */
  read(start: number, end: number): string {
    const bytes = this.#bytes, length = end - start;
    if (length === 0) return "";
    if (length > LONGEST) return this.#utf8.decode(bytes.subarray(start, end));
    // Four bytes at a time: names are long, and alike at their beginning.
    const view = this.#view, words = end - 3;
    let hash = length, or = 0, i = start;
    for (; i < words; i += 4) {
      const word = view.getInt32(i, true);
      or |= word;
      hash = Math.imul(hash ^ word, 0x01000193);
      hash ^= hash >>> 15;
    }
    for (; i < end; i++) {
      const b = bytes[i]!;
      or |= b;
      hash = Math.imul(hash ^ b, 0x01000193);
    }
    if ((or & 0x80808080) !== 0) return this.#utf8.decode(bytes.subarray(start, end));
    hash ^= hash >>> 15;
    const mask = this.#slots.length - 1;
    let slot = hash & mask;
    for (let found = this.#slots[slot]!; found !== 0; found = this.#slots[slot = (slot + 1) & mask]!) {
      if (this.#hashes[found - 1] === hash && this.#equal(found - 1, start, length)) return this.#strings[found - 1]!;
    }
    const text = this.#ascii(start, end);
    this.#slots[slot] = this.#strings.push(text);
    this.#starts.push(start);
    this.#hashes.push(hash);
    if (this.#strings.length * 2 > this.#slots.length) this.#grow();
    return text;
  }

  #equal(index: number, start: number, length: number): boolean {
    if (this.#strings[index]!.length !== length) return false;
    const bytes = this.#bytes, view = this.#view, other = this.#starts[index]!;
    let i = 0;
    for (; i < length - 3; i += 4) if (view.getInt32(other + i) !== view.getInt32(start + i)) return false;
    for (; i < length; i++) if (bytes[other + i] !== bytes[start + i]) return false;
    return true;
  }

  /** A decoder is slow to call, so that it gets a chunk, of which strings are cut. */
  #ascii(start: number, end: number): string {
    if (start < this.#textStart || end > this.#textStart + this.#text.length) {
      this.#textStart = start;
      this.#text = this.#latin1.decode(this.#bytes.subarray(start, Math.max(end, start + CHUNK)));
    }
    return this.#text.slice(start - this.#textStart, end - this.#textStart);
  }

  #grow(): void {
    const slots = new Int32Array(this.#slots.length * 4), mask = slots.length - 1;
    this.#hashes.forEach((hash, i) => {
      let slot = hash & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = i + 1;
    });
    this.#slots = slots;
  }
}
