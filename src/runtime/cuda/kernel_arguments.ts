/** Arguments of generated kernels: addresses, and numbers that a launch gives by itself or that lie in memory, where each step may change them. */
import type { Operand, Params } from "../../ops/kernels/kernel.ts";
import type { KernelTexts, NamedText } from "./kernel_texts.ts";
import { cType } from "./prelude.ts";

/** A kernel and what to launch it with. */
export interface Launch {
  /** The kernel whose argument holds the numbers themselves. */
  readonly plain: NamedText;
  /** The same kernel, which reads them from memory: steps of other sizes are then the same launch. */
  readonly sized: NamedText;
  readonly addresses: readonly Operand[];
  /** 8 bytes each: 64-bit integers, or doubles. */
  readonly numbers: Uint8Array<ArrayBuffer>;
  /** Enough for the sizes that it was made for; kernels are right with any number. */
  readonly blocks: number;
  readonly threads: number;
}

/** Bytes of a kernel's argument at most: more is taken since CUDA 12.1 only. */
export const ARGUMENT_BYTES = 4096;
/** Threads of a block at most. */
export const THREADS = 256;
/** Blocks of a grid at most; what is more is done in turns. */
export const MAX_BLOCKS = 65_535;

/** Bytes of a launch's argument, where numbers lie in it. */
export function argumentBytes({ addresses, numbers }: Launch): number {
  return 8 * addresses.length + numbers.length;
}

/** Declares the fields of a kernel's argument: in its text, `p` are addresses and `nums` numbers. */
export class Arguments {
  readonly #addresses: Operand[] = [];
  readonly #numbers: { readonly value: number; readonly isFloat: boolean }[] = [];
  readonly #declared: { readonly addresses: string[]; readonly numbers: string[] } = { addresses: [], numbers: [] };

  /** An integer; gives how the text calls it. */
  int(name: string, value: number): string {
    this.#numbers.push({ value, isFloat: false });
    this.#declared.numbers.push(`long long ${name};`);
    return `nums.${name}`;
  }

  /** A double. */
  float(name: string, value: number): string {
    this.#numbers.push({ value, isFloat: true });
    this.#declared.numbers.push(`double ${name};`);
    return `nums.${name}`;
  }

  /** Memory. */
  address(name: string, operand: Operand, isConst: boolean): string {
    this.#addresses.push(operand);
    this.#declared.addresses.push(`${isConst ? "const " : ""}${cType(operand.dtype)}* ${name};`);
    return `p.${name}`;
  }

  /** The kernel of `body`, whose loops count in the type `I`. */
  launch(
    body: string,
    o: {
      readonly blocks: number;
      readonly threads: number;
      /** Threads that it may be launched with, which decides how many registers each may have. */
      readonly bound?: number;
      readonly wide: boolean;
      readonly texts: KernelTexts;
    },
  ): Launch {
    const index = o.wide ? "unsigned long long" : "unsigned int";
    const addresses = this.#declared.addresses.join(" "), numbers = this.#declared.numbers.join(" ");
    const named = (how: "plain" | "sized") =>
      o.texts.named(`${how} ${index} ${addresses}${numbers}${body}`, (hash) => {
        const name = `sw_${hash}`, given = how === "plain" ? "N" : "const N*";
        const text = `namespace n_${hash} {\nstruct A { ${addresses} };\nstruct N { ${numbers} };\n` +
          `struct P { A p; ${given} s; };\ntypedef ${index} I;\n` +
          `static __device__ __forceinline__ void run(const A p, const N nums) {\n${body}}\n}\n` +
          `extern "C" __global__ void __launch_bounds__(${o.bound ?? THREADS}) ${name}(const n_${hash}::P q) { ` +
          `n_${hash}::run(q.p, ${how === "plain" ? "q.s" : "*q.s"}); }\n`;
        return { name, text };
      });
    return {
      plain: named("plain"),
      sized: named("sized"),
      addresses: this.#addresses,
      numbers: this.#packed(),
      blocks: Math.min(MAX_BLOCKS, o.blocks),
      threads: o.threads,
    };
  }

  #packed(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(8 * this.#numbers.length), view = new DataView(bytes.buffer);
    this.#numbers.forEach(({ value, isFloat }, i) => {
      if (isFloat) return view.setFloat64(8 * i, value, true);
      view.setInt32(8 * i, value % 2 ** 32, true);
      view.setInt32(8 * i + 4, Math.floor(value / 2 ** 32), true);
    });
    return bytes;
  }
}

/** Statements that take `index` apart into `prefix0`, `prefix1`, … */
export function indices(prefix: string, args: Arguments, sizes: readonly number[], index: string): string {
  const lines: string[] = [];
  let rest = index;
  for (let d = sizes.length - 1; d >= 0; d--) {
    if (d === 0) lines.push(`const long long ${prefix}0 = ${rest};`);
    else {
      const size = args.int(`n${prefix}${d}`, sizes[d]!);
      lines.push(`const long long ${prefix}${d} = (${rest}) % (I)${size};`);
      lines.push(`const I q${prefix}${d} = (${rest}) / (I)${size};`);
      rest = `q${prefix}${d}`;
    }
  }
  return lines.join(" ");
}

/** The sum of index times stride, over dims whose stride is not 0. */
export function offset(name: string, args: Arguments, at: { prefix: string; strides: readonly number[] }): string {
  const terms = at.strides.flatMap((s, d) =>
    s === 0 ? [] : [`${at.prefix}${d} * ${args.int(`s${name}${at.prefix}${d}`, s)}`]
  );
  return terms.length > 0 ? terms.join(" + ") : "0";
}

/** Statements that declare the `params` that expressions mention. */
export function declareParams(args: Arguments, params: Params, mentioned: (name: string) => boolean): string {
  return Object.entries(params).filter(([name]) => mentioned(name)).map(([name, value]) => {
    if (typeof value === "number") return `const long long ${name} = ${args.int(name, value)};`;
    return `const float ${name} = (float)${args.float(name, value.float)};`;
  }).join(" ");
}

/** Whether indices need 64 bits. */
export const isWide = (elements: number): boolean => elements >= 2 ** 31;
