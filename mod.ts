/**
 * Shardwise runs one neural network across N processes: tensor parallelism for ONNX models, on Deno.
 *
 * Started by `deno task launch --nproc 2 run.ts`, this program is the same on every rank:
 *
 * ```ts ignore
 * await using comm = await init();
 * await using model = await parallelizeModel("model.onnx", { comm });
 * const { logits } = await model.run({ input_ids, attention_mask });
 * ```
 *
 * The way there can be walked by hand too, one pass at a time; every stage is a graph that {@linkcode printGraph} prints:
 *
 * ```ts
 * import { cleanPipeline, importOnnx, ParallelExecutionCtx, printGraph, readOnnx, shardPipeline } from "./mod.ts";
 *
 * using file = readOnnx("tests/data/models/mlp/model.onnx");
 * const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0 });
 * const clean = cleanPipeline().run(importOnnx(file), ctx);
 * const sharded = shardPipeline().run(clean, ctx);
 * if (!printGraph(sharded).includes("all_reduce")) throw new Error("two layers need one all-reduce");
 * ```
 *
 * @module
 */

// The short way: a file in, a model that runs out.
export type { DecoderFiles } from "./src/model_graphs.ts";
export { parallelizeDecoder, parallelizeModel, type ParallelizeOptions } from "./src/session.ts";
export { type OverMeshOptions, parallelizeOverMesh } from "./src/mesh_session.ts";
export { type ExplainedModel, explainModel, type ExplainOptions } from "./src/explain_model.ts";
export { type ShardedFolder, shardModel, type ShardModelOptions } from "./src/shard_model.ts";
export { planSource, readPlanFile } from "./src/plan_source.ts";
export type { EngineChoice } from "./src/runtime/cpu/open_engine.ts";
export type { GpuPeaks, GpuUse, Picking, StepOptions, StepTiming } from "./src/runtime/executor.ts";
export type { ExecutionOptions } from "./src/runtime/open_executor.ts";
export type { DeviceChoice, HeldDType } from "./src/runtime/device_choice.ts";
export { ParallelModel, type ParallelModelParts, type TensorInfo } from "./src/runtime/parallel_model.ts";
export { DataParallelModel, type DataParallelParts } from "./src/runtime/data_parallel_model.ts";
export { type DeviceMesh, parseMesh } from "./src/plan/mesh.ts";
export type { Batch, BatchDim } from "./src/plan/batch.ts";
export { ModelState } from "./src/runtime/model_state.ts";

// The ranks of the job.
export type { EnvRecord } from "./src/core/env_record.ts";
export { init, type InitOptions } from "./src/runtime/comm/init.ts";
export type { BackendChoice } from "./src/runtime/comm/engines.ts";
export type {
  AllReduceOptions,
  AllToAllOptions,
  Backend,
  Communicator,
  CountOptions,
  GroupOptions,
  MessageOptions,
  ObjectCollectives,
  OpOptions,
  ReceiveOptions,
  RecvOptions,
  Verb,
} from "./src/runtime/comm/communicator.ts";
export type { Mesh, MeshOptions } from "./src/runtime/comm/mesh.ts";
export {
  type Buf,
  type CommDType,
  type PreMulSum,
  type ReduceOp,
  type ReduceOpName,
  type SymmetricTensor,
  symmetricView,
  type TypedBuffer,
} from "./src/runtime/comm/buffers.ts";
export type { Probed, Received } from "./src/runtime/comm/mailbox.ts";
export type { ArenaMark, SymmetricArena, SymmetricBuffer } from "./src/runtime/comm/arena.ts";
export { Work, type WorkState } from "./src/runtime/comm/work.ts";
export type { Finished } from "./src/runtime/comm/work_sets.ts";

// Tensors in memory and in files.
export {
  fromNumbers,
  type HostTensor,
  hostTensor,
  hostTensorBytes,
  hostTensorFromBytes,
  toNumbers,
} from "./src/core/host_tensor.ts";
export {
  type DType,
  type DTypeInfo,
  dtypeInfo,
  DTYPES,
  type TypedArray,
  type TypedArrayConstructor,
} from "./src/core/dtype.ts";
export { readTensors, writeTensors } from "./src/formats/tensor_file.ts";

// ONNX models.
export { type OnnxFile, readOnnx, type ReadOnnxOptions } from "./src/formats/onnx_file.ts";
export type { ByteSource, OpenSource } from "./src/formats/mapped_file.ts";
export type { IndexRanges, TensorLocation, TensorSource } from "./src/formats/tensor_source.ts";
export { importOnnx } from "./src/formats/import_onnx.ts";
export { exportOnnx, type ExportOptions, type ExternalReference } from "./src/formats/export_onnx.ts";

// Graphs.
export type {
  Attribute,
  Attributes,
  Call,
  Carried,
  Collective,
  CollectiveKind,
  GetAttr,
  Graph,
  Node,
  Output,
  Placeholder,
  Stage,
  TensorData,
  Value,
} from "./src/graph/graph.ts";
export { GraphBuilder, inlineData } from "./src/graph/builder.ts";
export { printGraph, type PrintOptions } from "./src/graph/text.ts";
export { parseGraph, type ParseOptions } from "./src/graph/text_parser.ts";
export { verify } from "./src/graph/verify.ts";
export { type KnownInts, printType, type Shape, type TensorType } from "./src/graph/types.ts";
export { type Atom, type Dim, type DimFunction, symbol, SymDim, type Term } from "./src/core/dim.ts";

// Placements.
export {
  type Partial,
  PARTIAL_SUM,
  type Placement,
  printPlacement,
  type Reduction,
  REPLICATE,
  type Replicate,
  type Shard,
  shard,
} from "./src/graph/placement.ts";
export { balanced, type Layout, layout, type Range } from "./src/graph/layout.ts";

// Passes.
export type { NarrowDType } from "./src/passes/round_values.ts";
export { type Config, type Dump, ParallelExecutionCtx } from "./src/passes/context.ts";
export type { RewriteNote } from "./src/passes/rewrites/rewrite.ts";
export { type Pass, pass } from "./src/passes/pass.ts";
export { PassPipeline } from "./src/passes/pipeline.ts";
export { cleanPipeline, loadPipeline, shardPipeline } from "./src/passes/pipelines.ts";
export { ParallelAxisSolverPass } from "./src/passes/parallel_axis_solver_pass.ts";
export { ParallelLayerAnnotatePass } from "./src/passes/parallel_layer_annotate_pass.ts";
export { ParallelLayerReplacePass } from "./src/passes/parallel_layer_replace_pass.ts";
export { InitializeOrLoadWeightsPass } from "./src/passes/initialize_or_load_weights_pass.ts";

// Layers: models written in TypeScript.
export { compileModule, type CompileModuleOptions, runModule, type RunModuleOptions } from "./src/module_session.ts";
export { type LoadOptions, Module, Sequential } from "./src/layers/module.ts";
export { Parameter, type ParameterOptions, type StateTensor } from "./src/layers/parameter.ts";
export { type Initializer, linearInitializer, ONES, ZEROS } from "./src/layers/initializers.ts";
export { type CallOptions, Trace, type TraceOptions } from "./src/layers/trace.ts";
export { Linear, LinearModule, type LinearOptions } from "./src/layers/linear.ts";
export { ColumnParallelLinear, type ColumnParallelLinearOptions } from "./src/layers/column_parallel_linear.ts";
export { RowParallelLinear, type RowParallelLinearOptions } from "./src/layers/row_parallel_linear.ts";
export { Embedding, EmbeddingModule, type EmbeddingOptions, VocabParallelEmbedding } from "./src/layers/embedding.ts";
export {
  CrossEntropyLoss,
  type CrossEntropyOptions,
  LossModule,
  VocabParallelCrossEntropyLoss,
} from "./src/layers/cross_entropy_loss.ts";
export { LayerNorm, type LayerNormOptions, RMSNorm, type RMSNormOptions } from "./src/layers/norms.ts";
export {
  type Activation,
  gelu,
  geluTanh,
  Lambda,
  relu,
  sigmoid,
  silu,
  softmax,
  tanh,
} from "./src/layers/activations.ts";

// Plans.
export type { Plan, PlanCost, PlanMemory, Reshard, Strategy } from "./src/plan/plan.ts";
export type { CostModel, Nominal } from "./src/plan/cost.ts";
export type { Measurement } from "./src/runtime/host/calibration.ts";
export type { Override, Overrides } from "./src/plan/overrides.ts";
export type { Quantize } from "./src/passes/quantise/weight_format.ts";
export {
  type CollectiveReport,
  type LayerReport,
  PLAN_COLUMNS,
  planJson,
  type PlanReport,
  planRows,
  planSummary,
  planText,
  type WeightReport,
} from "./src/plan/explain.ts";
export { type PlanFile, planFile, type ReshardEntry, type StrategyEntry } from "./src/plan/plan_file.ts";
export type { NodeSharding, TensorSharding } from "./src/formats/device_annotations.ts";
export { planOutline } from "./src/plan/outline.ts";
export type { AlternativeReport, LayerExplanation } from "./src/plan/alternatives.ts";
export { type Baseline, BASELINES } from "./src/plan/baselines.ts";
export type { PlanComparison } from "./src/plan/comparison.ts";
export type { LayerKind } from "./src/plan/layer_kind.ts";

// Programs: what one rank does in a step.
export { segment } from "./src/program/segment.ts";
export { printProgram } from "./src/program/text.ts";
export type { Barrier, Program, Segment, Source, Step, Stored } from "./src/program/program.ts";

// Traces: what ranks did when.
export type { RankTrace, RunTrace, Span, SpanKind } from "./src/trace/run_trace.ts";
export { type ChromeEvent, type ChromeTrace, chromeTrace } from "./src/trace/chrome.ts";
export { planPage } from "./src/plan_page.ts";

// Text generation.
export type { CausalModel, DecoderStep } from "./src/generate/causal_model.ts";
export { generate, generateBatch, type GenerateBatchOptions, type GenerateOptions } from "./src/generate/generate.ts";
export type { FeedInput } from "./src/generate/feeds.ts";
export { type Candidates, type Logits, Sampler, type SamplingOptions, type Wants } from "./src/generate/sampler.ts";
export { type BeamResult, beamSearch, type BeamSearchOptions } from "./src/generate/beam_search.ts";
export { encode, type Encoder, type EncoderPrompt } from "./src/generate/encoder_decoder.ts";
export { ModelFolder } from "./src/generate/model_folder.ts";
export type { Tokenizer } from "./src/generate/tokenizer.ts";
export type { ChatMessage } from "./src/generate/chat_template.ts";
export {
  type FolderBatchOptions,
  type FolderBeamOptions,
  type FolderGenerateOptions,
  LoadedFolder,
  loadModelFolder,
} from "./src/folder_session.ts";

// Progress.
export type { OnProgress } from "./src/core/progress.ts";

// Errors.
export {
  describeError,
  EngineError,
  type ErrorDetails,
  FormatError,
  GraphError,
  InputError,
  PlanError,
  ShapeError,
  ShardwiseError,
  UnavailableError,
  UsageError,
} from "./src/core/errors.ts";
export {
  CollectiveAborted,
  CollectiveMismatch,
  CollectiveTimeout,
  CommunicatorError,
  PeerLost,
  RendezvousError,
} from "./src/runtime/comm/errors.ts";
export { ProgressLine, progressLine } from "./src/runtime/progress_line.ts";
export type { ProgressIo } from "./src/runtime/progress_line.ts";
