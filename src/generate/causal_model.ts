/** What generation needs of a model; a parallel model fits. */
import type { HostTensor } from "../core/host_tensor.ts";
import type { Shape } from "../graph/types.ts";
import type { StepOptions } from "../runtime/executor.ts";
import type { FeedInput } from "./feeds.ts";

/** One step of a model: takes inputs that are not carried, and moves a state on. */
export interface DecoderStep<S> {
  /** All inputs of a step but the carried ones. */
  readonly stepInputs: readonly FeedInput[];
  /** Runs on them, and moves `state` on. May give only the largest logits where only they are wanted. */
  readonly step: (
    inputs: Record<string, HostTensor>,
    state: S,
    options?: StepOptions,
  ) => Promise<Record<string, HostTensor>>;
  /** The whole of an output of which the last step gave only some elements. */
  readonly wholeOutput?: (output: string) => HostTensor | undefined;
}

/** A model that gives logits for the next token. `S` is the state that it carries from step to step. */
export interface CausalModel<S> extends DecoderStep<S> {
  /** Must include `logits`. */
  readonly outputs: readonly { readonly name: string; readonly type?: { readonly shape: Shape | undefined } }[];
  /** The carried inputs (the KV cache) and the outputs that become them; empty for a model without a cache. */
  readonly carried: readonly { readonly input: string; readonly output?: string }[];
  /** The first step, where it is another graph: it begins the state. */
  readonly first?: DecoderStep<S> | undefined;
  /** Runs once on all inputs. */
  readonly run: (inputs: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>;
  /** An empty state for `batch` sequences, which will hold up to `capacity` tokens: a hint. */
  readonly start: (batch: number, options?: { readonly capacity?: number }) => S;
  /**
   * Makes row i of `state` what row `rows[i]` was. `oneSource` says that all rows have the same encoder output, which then
   * stays where it is.
   */
  readonly reorder: (state: S, rows: readonly number[], options?: { readonly oneSource?: boolean }) => void;
}
