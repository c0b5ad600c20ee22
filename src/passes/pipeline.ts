/** Passes in a row, verified one by one. */
import { PlanError, ShardwiseError } from "../core/errors.ts";
import type { Graph } from "../graph/graph.ts";
import { printGraph } from "../graph/text.ts";
import { verify } from "../graph/verify.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";

/** A pass whose stages the pipeline has checked already. */
interface AnyPass {
  readonly name: string;
  readonly apply: (graph: never, ctx: ParallelExecutionCtx) => Graph;
}

/**
 * A composition of passes. It is immutable: every `append` gives a new pipeline, which compiles only where the pass takes
 * what the passes before it give.
 *
 * @example
 * const pipeline = new PassPipeline().append(inferTypesPass).append(liftLayersPass);
 * const graph = pipeline.run(importOnnx(file), new ParallelExecutionCtx({ ranks: 2, rank: 0 }));
 */
export class PassPipeline<In extends Graph = Graph<"global">, Out extends Graph = In> {
  readonly #passes: readonly AnyPass[];
  /** Only for types: what goes in and what comes out must match, not just the methods. */
  declare readonly stages: (graph: In) => Out;

  /** The empty pipeline. `passes` is for {@linkcode append}. */
  constructor(passes: readonly AnyPass[] = []) {
    this.#passes = passes;
  }

  /** The names of the passes, in order. */
  get names(): readonly string[] {
    return this.#passes.map((p) => p.name);
  }

  /** This pipeline, and `next` after it. */
  append<Next extends Graph>(next: Pass<Out, Next>): PassPipeline<In, Next> {
    return new PassPipeline<In, Next>([...this.#passes, next]);
  }

  /**
   * Runs all passes on `graph`; verifies it and what every pass gives.
   *
   * @throws {ShardwiseError} If a pass fails or gives an invalid graph: which one, and after which others. The cause is kept.
   */
  run(graph: In, ctx: ParallelExecutionCtx): Out {
    verify(graph);
    let current: Graph = graph;
    for (const [i, pass] of this.#passes.entries()) {
      try {
        const next = pass.apply(current as never, ctx);
        // A pass that found nothing to do gives back what it was given.
        if (next !== current) verify(next);
        current = next;
      } catch (cause) {
        throw this.#failure(graph, i, cause);
      }
      if (ctx.config.dump) ctx.dumps.push({ pass: pass.name, text: printGraph(current) });
    }
    ctx.compileTimes++;
    ctx.lastOptimizedGraph = current;
    return current as Out;
  }

  #failure(graph: Graph, index: number, cause: unknown): ShardwiseError {
    // What a user asked for and cannot have is no failure of the pass that finds it out: the message says all of it.
    if (cause instanceof PlanError) return cause;
    const before = this.names.slice(0, index);
    const after = before.length > 0 ? `after ${before.join(", ")}` : "the first pass";
    const message = cause instanceof Error ? cause.message : String(cause);
    const hint = cause instanceof ShardwiseError ? cause.hint : undefined;
    return new ShardwiseError(
      `Cannot apply pass ${this.names[index]} to graph "${graph.name}" (${after}): ${message}`,
      {
        cause,
        ...(hint === undefined ? {} : { hint }),
      },
    );
  }
}
