/** Splitting a model into files, one part a rank; sharded_folder.ts says what they are and reads them. */
import { basename, dirname, join } from "node:path";
import { byteLength } from "./core/dtype.ts";
import { cannotWrite, FormatError, ShardwiseError } from "./core/errors.ts";
import { isFile } from "./core/paths.ts";
import { writeShardings } from "./formats/device_annotations.ts";
import type { ExternalReference } from "./formats/export_onnx.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import { encodeModel } from "./formats/onnx_encode.ts";
import { create, DATA_LOCATION, type TensorProto } from "./formats/onnx_messages.ts";
import { exportRankModel } from "./formats/rank_model.ts";
import type { Graph, TensorData } from "./graph/graph.ts";
import { printGraph } from "./graph/text.ts";
import { shardingsOf } from "./passes/annotations.ts";
import { type Config, ParallelExecutionCtx, withoutPlan } from "./passes/context.ts";
import { cleanModel } from "./passes/clean_model.ts";
import { firstStepOptions, joinSteps } from "./passes/first_step.ts";
import { wishesByGraph } from "./passes/wishes.ts";
import { graphsOfFile, OpenFiles } from "./model_graphs.ts";
import { withMeasured } from "./measured_costs.ts";
import { localize } from "./passes/localize.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { shardPipeline } from "./passes/pipelines.ts";
import { specializeBranches } from "./passes/specialize_branches.ts";
import { explainSolved } from "./plan/explain.ts";
import type { Plan } from "./plan/plan.ts";
import { solvePlan } from "./plan/search.ts";
import { graphsBeside, type ModelFolder, PARTS_OF_ENCODER } from "./generate/model_folder.ts";
import { type PlanFile, planFile } from "./plan/plan_file.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { explainFile } from "./explain_model.ts";
import { SizeLimits } from "./runtime/size_limits.ts";
import { FOLDER_FILES, RANK_METADATA, rankFiles, shardedFor } from "./sharded_folder.ts";

/** How a model is exported. */
export interface ShardModelOptions {
  /** Ranks to make files for. */
  readonly ranks: number;
  /** What the passes may be told. */
  readonly config?: Config;
  /** Path of a decoder's first step, where that is a file of its own; a merged decoder's is found in the file. */
  readonly firstStep?: string;
  /** Files of the model's other graphs (an encoder's): patterns of `config` may mean layers of theirs instead. */
  readonly beside?: readonly string[];
}

/** What was written. */
export interface ShardedFolder {
  /** The plan's file. */
  readonly plan: PlanFile;
  /** Names of the files, with their bytes. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

/** Constants of fewer bytes stay in the models. */
const INLINE_BELOW = 1024;
/** Names of ranks' files. */
const PART = /^rank\d+\.(onnx|plain\.onnx|bin)$/;
/** What belongs to a model beside its graph, and is copied along. */
const COMPANIONS =
  /^(tokenizer.*\.json|(.*_)?config\.json|special_tokens_map\.json|chat_template\.jinja|vocab\.(json|txt)|merges\.txt|.*\.model)$/;

/**
 * Splits the ONNX model at `path` over `ranks` and writes all parts to the folder `to`, which is made if need be.
 *
 * A decoder's first step, where that is another graph, goes to a folder `first_step` in it.
 *
 * @throws {FormatError} If the model cannot be read. @throws {PlanError} If `config` asks for the impossible.
 */
export function shardModel(
  path: string,
  to: string,
  { ranks, config = {}, firstStep, beside = [] }: ShardModelOptions,
): ShardedFolder {
  using sources = mappedSources();
  using opened = new DisposableStack();
  const read = (from: string) => opened.use(readOnnx(from, { open: sources.open }));
  const file = read(path), imported = importOnnx(file);
  const steps = firstStep === undefined
    ? specializeBranches(imported)?.steps
    : joinSteps(importOnnx(read(firstStep)), imported);
  const [ofNext, ofFirst] = steps ? wishesOfSteps(steps, config, beside) : [config, config];
  const explained = explainFile(file, {
    ranks,
    config: ofNext,
    graph: steps?.next ?? imported,
    beside: steps ? [] : beside,
  });
  const { graph, plan, report } = explained;
  makeFolder(to);
  refuseOverwriting(path, to);
  removeParts(to);
  const stored = planFile(graph, plan, report);
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: explained.config });
  ctx.plan = plan;
  const sharded = shardPipeline().run(graph, ctx);
  // What ranks hold in 4 bits is not in the model's file, and the file is many times as large.
  const isWhole = config.quantize === undefined;
  const data = isWhole ? writeWeights(file, join(to, FOLDER_FILES.data)) : new PlacedData();
  if (!isWhole) { for (const name of [FOLDER_FILES.model, FOLDER_FILES.data]) removeFile(join(to, name)); }
  const files = writeParts(sharded, { to, stored, data });
  if (steps) {
    const priced = withMeasured(ofFirst, explained.measured);
    const first = new ParallelExecutionCtx({ ranks, rank: 0, config: priced, shares: ctx });
    const clean = cleanModel(steps.first, first);
    const options = firstStepOptions(clean, sharded, planOptions(first.config, ranks, clean));
    const solved = solvePlan(clean, options);
    first.plan = solved.plan;
    const folder = join(to, FOLDER_FILES.firstStep);
    makeFolder(folder);
    const own = writeParts(shardPipeline().run(clean, first), {
      to: folder,
      stored: planFile(clean, solved.plan, explainSolved(clean, solved, false)),
      data: new PlacedData(),
    });
    files.push(...own.map(({ name, bytes }) => ({ name: join(FOLDER_FILES.firstStep, name), bytes })));
  }
  if (isWhole) {
    // Last, as it changes the model that the weights were read from.
    files.push(
      write(to, FOLDER_FILES.model, annotatedModel(file, { graph, plan, data })),
      ...sized(to, FOLDER_FILES.data),
    );
  }
  for (const name of companions(path, to)) files.push(...sized(to, name));
  return { plan: stored, files };
}

/** What is asked of a decoder's later steps, and of its first. */
function wishesOfSteps(
  { next, first }: { readonly next: Graph<"global">; readonly first: Graph<"global"> },
  config: Config,
  beside: readonly string[],
): readonly [Config, Config] {
  using files = new OpenFiles();
  const others = beside.length === 0 ? undefined : () => beside.flatMap((path) => graphsOfFile(path, files));
  const [ofNext, ofFirst] = wishesByGraph(config, { own: [next, first], others });
  return [ofNext!, ofFirst!];
}

/**
 * {@linkcode shardModel} for all graphs of a model folder: a decoder's first step and its encoder lie in folders of their own.
 */
export function shardModelFolder(
  { model, firstStep, encoder }: Pick<ModelFolder, "model" | "firstStep" | "encoder">,
  to: string,
  options: Omit<ShardModelOptions, "firstStep">,
): ShardedFolder {
  const made = shardModel(model, to, {
    ...options,
    ...(firstStep === undefined ? {} : { firstStep }),
    beside: graphsBeside(model),
  });
  if (encoder === undefined) return made;
  const { files } = shardModel(encoder, join(to, PARTS_OF_ENCODER), {
    ...options,
    config: withoutPlan(options.config ?? {}),
    beside: graphsBeside(encoder),
  });
  return {
    plan: made.plan,
    files: [...made.files, ...files.map(({ name, bytes }) => ({ name: join(PARTS_OF_ENCODER, name), bytes }))],
  };
}

/** Removes what an earlier export left, for more ranks or another model perhaps. */
function removeParts(folder: string): void {
  for (const { name } of [...Deno.readDirSync(folder)]) if (PART.test(name)) Deno.removeSync(join(folder, name));
  for (const name of [FOLDER_FILES.firstStep, PARTS_OF_ENCODER]) {
    const inner = join(folder, name);
    if (shardedFor(inner) !== undefined) Deno.removeSync(inner, { recursive: true });
  }
}

/** The plan, the sharded graph, and every rank's model. */
function writeParts(
  sharded: Graph<"sharded">,
  { to, stored, data }: { to: string; stored: PlanFile; data: PlacedData },
): { name: string; bytes: number }[] {
  const { ranks, model: { fingerprint } } = stored;
  const encoder = new TextEncoder();
  return [
    write(to, FOLDER_FILES.plan, encoder.encode(JSON.stringify(stored, undefined, 1) + "\n")),
    write(to, FOLDER_FILES.graph, encoder.encode(printGraph(sharded))),
    ...Array.from({ length: ranks }, (_, rank) => writeRank(sharded, { to, rank, ranks, fingerprint, data })).flat(),
  ];
}

/** The weights of the whole model in one file: where each piece of a source file has gone. */
class PlacedData {
  readonly #pieces = new Map<string, { from: number; length: number; to: number }[]>();

  add(file: string, from: number, length: number, to: number): void {
    const list = this.#pieces.get(file);
    if (list) list.push({ from, length, to });
    else this.#pieces.set(file, [{ from, length, to }]);
  }

  /** Where the bytes of `data` lie in the new file, if they do. */
  find({ location }: Pick<TensorData, "location">): ExternalReference | undefined {
    if (!location) return undefined;
    const { offset, length } = location;
    const piece = this.#pieces.get(location.file)?.find((p) =>
      p.from <= offset && offset + length <= p.from + p.length
    );
    return piece && { location: FOLDER_FILES.data, offset: piece.to + offset - piece.from, length };
  }
}

function writeWeights(file: OnnxFile, path: string): PlacedData {
  const placed = new PlacedData();
  using out = new DataWriter(path);
  for (const source of file.tensors.values()) {
    const { location } = source;
    if (location.kind !== "file" || location.length < INLINE_BELOW || placed.find({ location: at(location) })) continue;
    placed.add(location.path, location.offset, location.length, out.append([source.bytes()]));
  }
  return placed;
}

function at({ path, offset, length }: { path: string; offset: number; length: number }) {
  return { file: path, offset, length };
}

/** A rank's models, and the file of its own slices. */
function writeRank(
  sharded: Graph<"sharded">,
  into: { to: string; rank: number; ranks: number; fingerprint: string; data: PlacedData },
): ShardedFolder["files"] {
  const { to, rank, ranks, fingerprint, data: whole } = into;
  const names = rankFiles(rank);
  const shared = new Set(sharded.nodes.flatMap((node) => (node.kind === "get_attr" ? node.outputs : [])));
  /** Where the slices of the sharded graph's constants are, by name: both models read the same. */
  const slices = new Map<string, ExternalReference>();
  const written: { name: string; bytes: number }[] = [];
  const models = [[names.model, localize(sharded, rank, ranks)] as const];
  // Above the limits of fused ops, plain ones take their place.
  if (SizeLimits.of(sharded)) models.push([names.plain, localize(sharded, rank, ranks, { plain: true })]);
  {
    using out = new DataWriter(join(to, names.weights));
    for (const [name, local] of models) {
      const references = new Map<TensorData, ExternalReference>();
      for (const node of local.nodes) {
        if (node.kind !== "get_attr") continue;
        const { data, outputs: [value] } = node;
        const length = byteLength(data.dtype, data.shape.reduce((a, b) => a * b, 1));
        if (length < INLINE_BELOW || references.has(data)) continue;
        let reference = whole.find(data) ?? slices.get(value);
        if (!reference) {
          const offset = out.append(data.chunks?.() ?? [data.bytes()]);
          reference = { location: names.weights, offset, length };
          if (shared.has(value)) slices.set(value, reference);
        }
        references.set(data, reference);
      }
      const metadata = {
        [RANK_METADATA.rank]: `${rank} of ${ranks}`,
        [RANK_METADATA.fingerprint]: fingerprint,
      };
      written.push(
        write(to, name, exportRankModel(local, { external: (_, data) => references.get(data), metadata })),
      );
    }
  }
  return [...written, ...sized(to, names.weights)];
}

/** The whole model with annotations, its weights in the data file. */
function annotatedModel(
  file: OnnxFile,
  { graph, plan, data }: { graph: Graph<"global">; plan: Plan; data: PlacedData },
): Uint8Array {
  const { model } = file;
  for (const [proto, source] of file.tensors) {
    const { location } = source;
    const placed = location.kind === "file" ? data.find({ location: at(location) }) : undefined;
    if (placed) setData(proto, externalTo(placed));
    // What is too small for the data file must not refer to the old one, which may have the same name.
    else if (proto.dataLocation === DATA_LOCATION.external) {
      setData(proto, { rawData: source.bytes() });
    }
  }
  writeShardings(model, { name: `tp${plan.ranks}`, devices: plan.ranks }, shardingsOf(graph, plan));
  return encodeModel(model);
}

/** Gives a tensor other data than it has. */
function setData(proto: TensorProto, data: Partial<TensorProto>): void {
  const { name, dims, dataType } = proto;
  Object.assign(proto, create("TensorProto", { name, dims, dataType, ...data }));
}

function externalTo({ location, offset, length }: ExternalReference): Partial<TensorProto> {
  const entries = Object.entries({ location, offset, length });
  return {
    dataLocation: DATA_LOCATION.external,
    externalData: entries.map(([key, value]) => create("StringStringEntryProto", { key, value: String(value) })),
  };
}

/** A file that grows by aligned pieces; it is there only if anything was written. */
class DataWriter implements Disposable {
  readonly #path: string;
  #file: Deno.FsFile | undefined;
  #at = 0;

  constructor(path: string) {
    this.#path = path;
    removeFile(path);
  }

  /** Appends `pieces` in order; gives the offset of the first byte. */
  append(pieces: Iterable<Uint8Array>): number {
    const offset = Math.ceil(this.#at / 64) * 64;
    this.#at = offset;
    try {
      this.#file ??= Deno.openSync(this.#path, { write: true, create: true, truncate: true });
      this.#file.seekSync(offset, Deno.SeekMode.Start);
      for (const piece of pieces) {
        for (let done = 0; done < piece.length;) done += this.#file.writeSync(piece.subarray(done));
        this.#at += piece.length;
      }
    } catch (cause) {
      throw cause instanceof ShardwiseError ? cause : cannotWrite(this.#path, cause);
    }
    return offset;
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}

function write(folder: string, name: string, bytes: Uint8Array): { name: string; bytes: number } {
  const path = join(folder, name);
  try {
    Deno.writeFileSync(path, bytes);
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
  return { name, bytes: bytes.length };
}

/** @throws {FormatError} If there is none, and none can be made. */
function makeFolder(path: string): void {
  try {
    Deno.mkdirSync(path, { recursive: true });
    // A folder that can be listed is not yet one that takes files.
    Deno.removeSync(Deno.makeTempFileSync({ dir: path, prefix: ".shardwise-" }));
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

function sized(folder: string, name: string): { name: string; bytes: number }[] {
  return isFile(join(folder, name)) ? [{ name, bytes: Deno.statSync(join(folder, name)).size }] : [];
}

/** Copies tokenizer, configuration and chat template; gives their names. */
function companions(model: string, to: string): string[] {
  const folder = dirname(model);
  // Of `onnx/model.onnx` they lie one folder up.
  const folders = basename(folder) === "onnx" ? [dirname(folder), folder] : [folder];
  const names = new Map(
    folders.flatMap((from) =>
      Array.from(Deno.readDirSync(from)).filter((e) =>
        !e.isDirectory && COMPANIONS.test(e.name) && e.name !== FOLDER_FILES.plan
      )
        .map((e) => [e.name, join(from, e.name)] as const)
    ),
  );
  for (const [name, from] of names) Deno.copyFileSync(from, join(to, name));
  return [...names.keys()].sort();
}

/** @throws {FormatError} If the parts would lie where the model itself does. */
function refuseOverwriting(model: string, to: string): void {
  if (Deno.realPathSync(dirname(model)) !== Deno.realPathSync(to)) return;
  throw new FormatError(`Cannot export ${model} to ${to}: the model itself lies there`, {
    hint: "name another folder with --out",
  });
}

/** Removes what an earlier export wrote. */
function removeFile(path: string): void {
  if (isFile(path)) Deno.removeSync(path);
}
