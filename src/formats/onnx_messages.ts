/**
 * The messages of ONNX (IR version 13, the `onnx-ml.proto` of onnx 1.21.0, Apache-2.0: see NOTICE), as types and as a table that
 * onnx_wire.ts reads and onnx_encode.ts writes by.
 *
 * Names are those of onnx.proto in camel case; what a field means is said there. Lists that a message does not have are all the
 * same empty one: to append, assign a new list.
 */

/** A field of {@linkcode MessageType}. */
export interface Field {
  readonly number: number;
  /** As onnx.proto spells it. */
  readonly name: string;
  /** The property that holds it. */
  readonly key: string;
  readonly kind: FieldKind;
  readonly isList: boolean;
  /** The property that it shares with others, of which one is there. */
  readonly oneof: string | undefined;
  /** The type of a message; undefined for other kinds. */
  readonly message: MessageType | undefined;
}

/** What a field holds. Enums are int32 on the wire, and numbers here. */
export type FieldKind = "string" | "bytes" | "int32" | "int64" | "uint64" | "float" | "double" | "message";

/** A message, as data. */
export interface MessageType {
  readonly name: string;
  readonly fields: readonly Field[];
  /** By number. */
  readonly byNumber: readonly (Field | undefined)[];
  /** A message of defaults, to be copied. */
  readonly empty: Readonly<Record<string, unknown>>;
}

/** What a message has of fields that are not in the table, as it stood in the file. */
interface Unknown {
  unknown?: readonly Uint8Array[];
}

/** One of several: which, and its value. */
type OneOf<Cases> =
  | { readonly [K in keyof Cases]: { readonly case: K; readonly value: Cases[K] } }[keyof Cases]
  | { readonly case: undefined; readonly value?: undefined };

/** See onnx.proto. */
export interface AttributeProto extends Unknown {
  name: string;
  refAttrName: string;
  docString: string;
  type: number;
  f: number;
  i: bigint;
  s: Uint8Array;
  t?: TensorProto | undefined;
  g?: GraphProto | undefined;
  sparseTensor?: SparseTensorProto | undefined;
  tp?: TypeProto | undefined;
  floats: readonly number[];
  ints: readonly bigint[];
  strings: readonly Uint8Array[];
  tensors: readonly TensorProto[];
  graphs: readonly GraphProto[];
  sparseTensors: readonly SparseTensorProto[];
  typeProtos: readonly TypeProto[];
}

/** See onnx.proto. */
export interface ValueInfoProto extends Unknown {
  name: string;
  type?: TypeProto | undefined;
  docString: string;
  metadataProps: readonly StringStringEntryProto[];
}

/** See onnx.proto. */
export interface NodeProto extends Unknown {
  input: readonly string[];
  output: readonly string[];
  name: string;
  opType: string;
  domain: string;
  overload: string;
  attribute: readonly AttributeProto[];
  docString: string;
  metadataProps: readonly StringStringEntryProto[];
  deviceConfigurations: readonly NodeDeviceConfigurationProto[];
}

/** See onnx.proto. */
export interface NodeDeviceConfigurationProto extends Unknown {
  configurationId: string;
  shardingSpec: readonly ShardingSpecProto[];
  pipelineStage: number;
}

/** See onnx.proto. */
export interface ShardingSpecProto extends Unknown {
  tensorName: string;
  device: readonly bigint[];
  indexToDeviceGroupMap: readonly (Unknown & { key: bigint; value: readonly bigint[] })[];
  shardedDim: readonly ShardedDimProto[];
}

/** See onnx.proto. */
export interface ShardedDimProto extends Unknown {
  axis: bigint;
  simpleSharding: readonly SimpleShardedDimProto[];
}

/** See onnx.proto. */
export interface SimpleShardedDimProto extends Unknown {
  dim: OneOf<{ dimValue: bigint; dimParam: string }>;
  numShards: bigint;
}

/** See onnx.proto. */
export interface ModelProto extends Unknown {
  irVersion: bigint;
  opsetImport: readonly OperatorSetIdProto[];
  producerName: string;
  producerVersion: string;
  domain: string;
  modelVersion: bigint;
  docString: string;
  graph?: GraphProto | undefined;
  metadataProps: readonly StringStringEntryProto[];
  trainingInfo: readonly object[];
  functions: readonly FunctionProto[];
  configuration: readonly DeviceConfigurationProto[];
}

/** See onnx.proto. */
export interface DeviceConfigurationProto extends Unknown {
  name: string;
  numDevices: number;
  device: readonly string[];
}

/** See onnx.proto. */
export interface StringStringEntryProto extends Unknown {
  key: string;
  value: string;
}

/** See onnx.proto. */
export interface GraphProto extends Unknown {
  node: readonly NodeProto[];
  name: string;
  initializer: readonly TensorProto[];
  sparseInitializer: readonly SparseTensorProto[];
  docString: string;
  input: readonly ValueInfoProto[];
  output: readonly ValueInfoProto[];
  valueInfo: readonly ValueInfoProto[];
  quantizationAnnotation: readonly object[];
  metadataProps: readonly StringStringEntryProto[];
}

/** See onnx.proto. */
export interface TensorProto extends Unknown {
  dims: readonly bigint[];
  dataType: number;
  segment?: object | undefined;
  floatData: readonly number[];
  int32Data: readonly number[];
  stringData: readonly Uint8Array[];
  int64Data: readonly bigint[];
  name: string;
  docString: string;
  rawData: Uint8Array;
  externalData: readonly StringStringEntryProto[];
  dataLocation: number;
  doubleData: readonly number[];
  uint64Data: readonly bigint[];
  metadataProps: readonly StringStringEntryProto[];
}

/** See onnx.proto. */
export interface SparseTensorProto extends Unknown {
  values?: TensorProto | undefined;
  indices?: TensorProto | undefined;
  dims: readonly bigint[];
}

/** See onnx.proto. */
export interface TensorShapeProto extends Unknown {
  dim: readonly (Unknown & { value: OneOf<{ dimValue: bigint; dimParam: string }>; denotation: string })[];
}

/** See onnx.proto. */
export interface TypeProto extends Unknown {
  value: OneOf<{
    tensorType: Unknown & { elemType: number; shape?: TensorShapeProto | undefined };
    sequenceType: object;
    mapType: object;
    optionalType: object;
    sparseTensorType: object;
    opaqueType: object;
  }>;
  denotation: string;
}

/** See onnx.proto. */
export interface OperatorSetIdProto extends Unknown {
  domain: string;
  version: bigint;
}

/** See onnx.proto. */
export interface FunctionProto extends Unknown {
  name: string;
  input: readonly string[];
  output: readonly string[];
  attribute: readonly string[];
  attributeProto: readonly AttributeProto[];
  node: readonly NodeProto[];
  docString: string;
  opsetImport: readonly OperatorSetIdProto[];
  domain: string;
  overload: string;
  valueInfo: readonly ValueInfoProto[];
  metadataProps: readonly StringStringEntryProto[];
}

/** `AttributeProto.type`. */
export const ATTRIBUTE_TYPES = {
  undefined: 0,
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
  sparse_tensor: 11,
  sparse_tensors: 12,
  type_proto: 13,
  type_protos: 14,
} as const;

/** `TensorProto.data_location`. */
export const DATA_LOCATION = { default: 0, external: 1 } as const;

/** Every message: its fields by number, name and kind; `x?` is one of the fields that share property `x`. */
const TABLE = `
AttributeProto: 1 name string, 21 ref_attr_name string, 13 doc_string string, 20 type int32, 2 f float, 3 i int64, 4 s bytes,
  5 t TensorProto, 6 g GraphProto, 22 sparse_tensor SparseTensorProto, 14 tp TypeProto, 7 floats float[], 8 ints int64[],
  9 strings bytes[], 10 tensors TensorProto[], 11 graphs GraphProto[], 23 sparse_tensors SparseTensorProto[],
  15 type_protos TypeProto[]
ValueInfoProto: 1 name string, 2 type TypeProto, 3 doc_string string, 4 metadata_props StringStringEntryProto[]
NodeProto: 1 input string[], 2 output string[], 3 name string, 4 op_type string, 7 domain string, 8 overload string,
  5 attribute AttributeProto[], 6 doc_string string, 9 metadata_props StringStringEntryProto[],
  10 device_configurations NodeDeviceConfigurationProto[]
IntIntListEntryProto: 1 key int64, 2 value int64[]
NodeDeviceConfigurationProto: 1 configuration_id string, 2 sharding_spec ShardingSpecProto[], 3 pipeline_stage int32
ShardingSpecProto: 1 tensor_name string, 2 device int64[], 3 index_to_device_group_map IntIntListEntryProto[],
  4 sharded_dim ShardedDimProto[]
ShardedDimProto: 1 axis int64, 2 simple_sharding SimpleShardedDimProto[]
SimpleShardedDimProto: 1 dim_value int64 dim?, 2 dim_param string dim?, 3 num_shards int64
TrainingInfoProto: 1 initialization GraphProto, 2 algorithm GraphProto, 3 initialization_binding StringStringEntryProto[],
  4 update_binding StringStringEntryProto[]
ModelProto: 1 ir_version int64, 8 opset_import OperatorSetIdProto[], 2 producer_name string, 3 producer_version string,
  4 domain string, 5 model_version int64, 6 doc_string string, 7 graph GraphProto, 14 metadata_props StringStringEntryProto[],
  20 training_info TrainingInfoProto[], 25 functions FunctionProto[], 26 configuration DeviceConfigurationProto[]
DeviceConfigurationProto: 1 name string, 2 num_devices int32, 3 device string[]
StringStringEntryProto: 1 key string, 2 value string
TensorAnnotation: 1 tensor_name string, 2 quant_parameter_tensor_names StringStringEntryProto[]
GraphProto: 1 node NodeProto[], 2 name string, 5 initializer TensorProto[], 15 sparse_initializer SparseTensorProto[],
  10 doc_string string, 11 input ValueInfoProto[], 12 output ValueInfoProto[], 13 value_info ValueInfoProto[],
  14 quantization_annotation TensorAnnotation[], 16 metadata_props StringStringEntryProto[]
TensorProto: 1 dims int64[], 2 data_type int32, 3 segment Segment, 4 float_data float[], 5 int32_data int32[],
  6 string_data bytes[], 7 int64_data int64[], 8 name string, 12 doc_string string, 9 raw_data bytes,
  13 external_data StringStringEntryProto[], 14 data_location int32, 10 double_data double[], 11 uint64_data uint64[],
  16 metadata_props StringStringEntryProto[]
Segment: 1 begin int64, 2 end int64
SparseTensorProto: 1 values TensorProto, 2 indices TensorProto, 3 dims int64[]
TensorShapeProto: 1 dim Dimension[]
Dimension: 1 dim_value int64 value?, 2 dim_param string value?, 3 denotation string
TypeProto: 1 tensor_type Tensor value?, 4 sequence_type Sequence value?, 5 map_type Map value?, 9 optional_type Optional value?,
  8 sparse_tensor_type SparseTensor value?, 7 opaque_type Opaque value?, 6 denotation string
Tensor: 1 elem_type int32, 2 shape TensorShapeProto
Sequence: 1 elem_type TypeProto
Map: 1 key_type int32, 2 value_type TypeProto
Optional: 1 elem_type TypeProto
SparseTensor: 1 elem_type int32, 2 shape TensorShapeProto
Opaque: 1 domain string, 2 name string
OperatorSetIdProto: 1 domain string, 2 version int64
FunctionProto: 1 name string, 4 input string[], 5 output string[], 6 attribute string[], 11 attribute_proto AttributeProto[],
  7 node NodeProto[], 8 doc_string string, 9 opset_import OperatorSetIdProto[], 10 domain string, 13 overload string,
  12 value_info ValueInfoProto[], 14 metadata_props StringStringEntryProto[]
`;

/** The list of every field that has none. */
export const NONE: readonly never[] = Object.freeze([]);

/** What a field is where nothing is said. */
const DEFAULTS: Readonly<Record<FieldKind, unknown>> = {
  string: "",
  bytes: new Uint8Array(0),
  int32: 0,
  int64: 0n,
  uint64: 0n,
  float: 0,
  double: 0,
  message: undefined,
};
const UNSET = Object.freeze({ case: undefined });

/** All messages by name. */
export const MESSAGES: ReadonlyMap<string, MessageType> = readTable(TABLE);

/** The type of a model. */
export const MODEL = MESSAGES.get("ModelProto")!;

interface MessagesByName {
  readonly AttributeProto: AttributeProto;
  readonly DeviceConfigurationProto: DeviceConfigurationProto;
  readonly GraphProto: GraphProto;
  readonly NodeDeviceConfigurationProto: NodeDeviceConfigurationProto;
  readonly NodeProto: NodeProto;
  readonly OperatorSetIdProto: OperatorSetIdProto;
  readonly ShardedDimProto: ShardedDimProto;
  readonly ShardingSpecProto: ShardingSpecProto;
  readonly SimpleShardedDimProto: SimpleShardedDimProto;
  readonly StringStringEntryProto: StringStringEntryProto;
  readonly TensorProto: TensorProto;
  readonly ValueInfoProto: ValueInfoProto;
}

/** A new message of type `name` with these fields; others are as onnx.proto has them by default. */
export function create<K extends keyof MessagesByName>(
  name: K,
  fields: Partial<MessagesByName[K]>,
): MessagesByName[K] {
  return { ...MESSAGES.get(name)!.empty, ...fields } as unknown as MessagesByName[K];
}

function readTable(text: string): Map<string, MessageType> {
  type Open = { -readonly [K in keyof MessageType]: MessageType[K] } & { fields: Field[]; byNumber: Field[] };
  const types = new Map<string, Open>();
  const parsed = text.trim().split(/\n(?! )/).map((line) => {
    const [name, fields] = line.split(": ") as [string, string];
    types.set(name, { name, fields: [], byNumber: [], empty: {} });
    return [name, fields.split(/,\s*/)] as const;
  });
  for (const [name, fields] of parsed) {
    const type = types.get(name)!;
    for (const field of fields) {
      const [number, proto, what, oneof] = field.split(" ") as [string, string, string, string?];
      const isList = what.endsWith("[]"), kind = isList ? what.slice(0, -2) : what;
      const message = types.get(kind);
      type.fields.push({
        number: Number(number),
        name: proto,
        key: proto.replace(/_(.)/g, (_, c) => c.toUpperCase()),
        kind: message ? "message" : kind as FieldKind,
        isList,
        oneof: oneof?.slice(0, -1),
        message,
      });
    }
    for (const field of type.fields) type.byNumber[field.number] = field;
    type.empty = Object.fromEntries(
      type.fields.map((f) => f.oneof ? [f.oneof, UNSET] : [f.key, f.isList ? NONE : DEFAULTS[f.kind]]),
    );
  }
  return types;
}
