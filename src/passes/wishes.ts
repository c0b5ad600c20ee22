/**
 * What users ask of layers by pattern, for the graphs of one model: an encoder's, a decoder's first step, its later ones.
 *
 * Users know one model with its layers. So a pattern is held against the layers of all graphs, and each graph is asked
 * for what it has layers for: `encoder.*=column` says nothing to the decoder. Only what no graph has is an error, with
 * the near names of all. Whoever plans a single graph then finds each pattern of its configuration in it.
 */
import type { Graph } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";
import { matchesLayer, type Named } from "../plan/layer_names.ts";
import { unmatchedPattern } from "../plan/overrides.ts";
import { overridableLayers } from "../plan/problem.ts";
import { cleanModel } from "./clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./context.ts";
import { nothingToQuantise, quantisableLayers } from "./quantise_pass.ts";

/** The graphs of a model, as they were imported. */
export interface GraphsOfModel {
  /** Those that configurations are wanted for. */
  readonly own: readonly Graph<"global">[];
  /** The others, where there are any. They are read only if a pattern means no layer of the own ones. */
  readonly others?: (() => readonly Graph<"global">[]) | undefined;
}

/**
 * `config` for each of the own graphs of a model: with the overrides and formats that mean layers of it.
 *
 * @throws {PlanError} If a pattern means no layer of any graph: with near names.
 */
export function wishesByGraph(config: Config, { own, others }: GraphsOfModel): readonly Config[] {
  const { overrides, quantize, ...rest } = config;
  if (overrides === undefined && quantize === undefined) return own.map(() => config);
  // A model of one graph is asked everything.
  if (own.length === 1 && others === undefined) return [config];
  // Layers as they are before they are quantised, which leaves them their names.
  const clean = (graph: Graph<"global">) =>
    cleanModel(graph, new ParallelExecutionCtx({ ranks: 1, rank: 0, config: rest }));
  let more: readonly Graph<"global">[] | undefined;
  const graphs = { own: own.map(clean), others: () => more ??= (others?.() ?? []).map(clean) };
  const wishes = shareOut(overrides ?? {}, graphs, {
    layersOf: (graph) => overridableLayers(graph, opDef),
    unmatched: unmatchedPattern,
  });
  const formats = shareOut(typeof quantize === "string" ? { "*": quantize } : quantize ?? {}, graphs, {
    layersOf: quantisableLayers,
    unmatched: nothingToQuantise,
  });
  return own.map((_, i) => ({
    ...rest,
    ...(Object.keys(wishes[i]!).length === 0 ? {} : { overrides: wishes[i]! }),
    ...(Object.keys(formats[i]!).length === 0 ? {} : { quantize: formats[i]! }),
  }));
}

/** What `asked` says by pattern, for each of the own graphs. */
function shareOut<T>(
  asked: Readonly<Record<string, T>>,
  { own, others }: { readonly own: readonly Graph<"global">[]; readonly others: () => readonly Graph<"global">[] },
  { layersOf, unmatched }: {
    /** The layers of a clean graph that a pattern may mean. */
    readonly layersOf: (graph: Graph<"global">) => readonly Named[];
    readonly unmatched: (pattern: string, layers: readonly Named[]) => Error;
  },
): Record<string, T>[] {
  const layers = own.map(layersOf), patterns = Object.keys(asked);
  const means = (pattern: string, list: readonly Named[]) => list.some((layer) => matchesLayer(pattern, layer));
  for (const pattern of patterns) {
    if (layers.some((list) => means(pattern, list))) continue;
    const rest = others().flatMap(layersOf);
    if (!means(pattern, rest)) throw unmatched(pattern, [...layers.flat(), ...rest]);
  }
  return layers.map((list) => Object.fromEntries(Object.entries(asked).filter(([pattern]) => means(pattern, list))));
}
