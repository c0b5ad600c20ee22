/**
 * Functions without parameters. Elementwise ones keep a cut as it is, so they stand between a column-parallel and a
 * row-parallel layer without communication.
 */
import { int, string } from "../graph/attributes.ts";
import type { Value } from "../graph/graph.ts";
import { Module } from "./module.ts";
import type { Trace } from "./trace.ts";

/** A function of one traced tensor. */
export type Activation = (trace: Trace, x: Value) => Value;

/** `x · Φ(x)`, with the error function. Source: ONNX Gelu-20. */
export function gelu(trace: Trace, x: Value): Value {
  return trace.call("Gelu", [x], { attributes: { approximate: string("none") } });
}

/** Gelu's approximation by a hyperbolic tangent, as GPT-2 has it (`gelu_new`). */
export function geluTanh(trace: Trace, x: Value): Value {
  return trace.call("Gelu", [x], { attributes: { approximate: string("tanh") } });
}

/** `x · sigmoid(x)`, also called swish. */
export function silu(trace: Trace, x: Value): Value {
  return trace.call("Mul", [x, trace.call("Sigmoid", [x])]);
}

/** `max(x, 0)`. */
export function relu(trace: Trace, x: Value): Value {
  return trace.call("Relu", [x]);
}

/** The hyperbolic tangent. */
export function tanh(trace: Trace, x: Value): Value {
  return trace.call("Tanh", [x]);
}

/** `1 / (1 + e^−x)`. */
export function sigmoid(trace: Trace, x: Value): Value {
  return trace.call("Sigmoid", [x]);
}

/** `e^x / Σ e^x` over the last dim, which is made whole if it is cut. */
export function softmax(trace: Trace, x: Value): Value {
  return trace.call("Softmax", [x], { attributes: { axis: int(-1) } });
}

/** A function as a module, for {@linkcode Sequential}: `new Lambda(gelu)`. */
export class Lambda extends Module {
  readonly #apply: Activation;

  /** The module that applies a function. */
  constructor(apply: Activation) {
    super();
    this.#apply = apply;
  }

  /** The function's result. */
  override forward(trace: Trace, x: Value): Value {
    return this.#apply(trace, x);
  }
}
