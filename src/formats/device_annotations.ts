/**
 * ONNX's multi-device annotations (IR version 11): for tensors of a node, which dims are cut over which devices.
 *
 * Here are the messages alone, reading and writing; what they mean for a plan is `passes/annotations.ts`. Source: onnx.proto,
 * `DeviceConfigurationProto`, `NodeDeviceConfigurationProto`; ONNX's proposal "Sharding Formalism".
 */
import { FormatError } from "../core/errors.ts";
import { nodeLabel } from "./onnx_check.ts";
import type { OnnxFile } from "./onnx_file.ts";
import { create, type ModelProto } from "./onnx_messages.ts";

/** The first version of the file format that has annotations. */
export const ANNOTATIONS_IR_VERSION = 11n;

/** A set of devices that a model may run on. */
export interface DeviceConfiguration {
  /** Its name. */
  readonly name: string;
  /** How many devices it has. */
  readonly devices: number;
}

/** How one tensor lies on the devices, as one node reads or writes it. */
export interface TensorSharding {
  /** The value's name. */
  readonly tensor: string;
  /** The devices, in the order of the shards; all, in order, where it is empty. */
  readonly devices: readonly number[];
  /** Whether a device stands for a group of several. */
  readonly grouped: boolean;
  /** The dims that are cut: into how many shards. Others are whole; negative axes count from the back. */
  readonly cuts: readonly { readonly axis: number; readonly size?: number | string; readonly shards: number }[];
}

/** The annotations of one node. */
export interface NodeSharding {
  /** The node's name, as the file has it. */
  readonly name: string;
  /** Names of its results. */
  readonly outputs: readonly string[];
  /** Its annotated tensors. */
  readonly tensors: readonly TensorSharding[];
}

/** The device configurations of a model. */
export function deviceConfigurations({ model }: Pick<OnnxFile, "model">): DeviceConfiguration[] {
  return model.configuration.map(({ name, numDevices }) => ({ name, devices: numDevices }));
}

/** The annotated nodes of the main graph under a configuration. @throws {FormatError} If one names a tensor that it has not. */
export function readShardings({ model, graph, path }: OnnxFile, configuration: string): NodeSharding[] {
  if (!model.configuration.some(({ name }) => name === configuration)) return [];
  return graph.node.flatMap((node): NodeSharding[] => {
    const tensors = node.deviceConfigurations.filter((c) => c.configurationId === configuration).flatMap((c) =>
      c.shardingSpec.map((spec): TensorSharding => {
        if (!node.input.includes(spec.tensorName) && !node.output.includes(spec.tensorName)) {
          throw new FormatError(
            `Cannot read the sharding of ${nodeLabel(node)} of ${path}: it has no tensor ${
              JSON.stringify(spec.tensorName)
            }`,
          );
        }
        return {
          tensor: spec.tensorName,
          devices: spec.device.map(Number),
          grouped: spec.indexToDeviceGroupMap.length > 0,
          cuts: spec.shardedDim.map(({ axis, simpleSharding }) => {
            const size = simpleSharding[0]?.dim.value;
            return {
              axis: Number(axis),
              ...(size === undefined ? {} : { size: typeof size === "bigint" ? Number(size) : size }),
              shards: simpleSharding.reduce((n, s) => n * Number(s.numShards), 1),
            };
          }),
        };
      })
    );
    return tensors.length === 0 ? [] : [{ name: node.name, outputs: node.output, tensors }];
  });
}

/** Writes a configuration and its nodes' annotations into `model`, which gets a format version that has them. */
export function writeShardings(
  model: ModelProto,
  { name, devices }: DeviceConfiguration,
  tensorsOf: (node: { name: string; input: readonly string[]; output: readonly string[] }) => readonly TensorSharding[],
): void {
  model.irVersion = model.irVersion > ANNOTATIONS_IR_VERSION ? model.irVersion : ANNOTATIONS_IR_VERSION;
  model.configuration = [
    ...model.configuration.filter((c) => c.name !== name),
    create("DeviceConfigurationProto", { name, numDevices: devices }),
  ];
  for (const node of model.graph!.node) {
    const others = node.deviceConfigurations.filter((c) => c.configurationId !== name);
    const tensors = tensorsOf(node);
    const own = tensors.length === 0 ? [] : [create("NodeDeviceConfigurationProto", {
      configurationId: name,
      shardingSpec: tensors.map((t) =>
        create("ShardingSpecProto", {
          tensorName: t.tensor,
          device: t.devices.map(BigInt),
          shardedDim: t.cuts.map(({ axis, size, shards }) =>
            create("ShardedDimProto", {
              axis: BigInt(axis),
              simpleSharding: [create("SimpleShardedDimProto", {
                ...(size === undefined ? {} : {
                  dim: typeof size === "number"
                    ? { case: "dimValue", value: BigInt(size) }
                    : { case: "dimParam", value: size },
                }),
                numShards: BigInt(shards),
              })],
            })
          ),
        })
      ),
    })];
    node.deviceConfigurations = [...others, ...own];
  }
}
