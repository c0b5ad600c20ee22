/** Parameters: what a module learns. Shapes are those of the whole model; a rank reads or draws its own slice only. */
import type { DType } from "../core/dtype.ts";
import { GraphError, ShapeError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { tensorData } from "../formats/tensor_data.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { inlineData } from "../graph/builder.ts";
import type { TensorData } from "../graph/graph.ts";
import { initialData, type Initializer } from "./initializers.ts";

/** What a parameter can take as data: a tensor of a file, of a graph, or of memory. */
export type StateTensor = TensorSource | TensorData | HostTensor;

/** How a parameter is declared. */
export interface ParameterOptions {
  /** Shape of the whole tensor, whatever the number of ranks. */
  readonly shape: readonly number[];
  /** What {@linkcode Module.initialize} puts in. */
  readonly initializer: Initializer;
  /** `f32` by default. */
  readonly dtype?: DType | undefined;
}

/** A tensor of a module, whole, with data that may come later: from a file, from memory, or drawn at random. */
export class Parameter {
  /** Of the whole tensor. */
  readonly shape: readonly number[];
  /** Of its elements. */
  readonly dtype: DType;
  /** What {@linkcode initialize} draws from. */
  readonly initializer: Initializer;
  #data: TensorData | undefined;

  /** Without data yet. */
  constructor(options: ParameterOptions) {
    this.shape = options.shape;
    this.dtype = options.dtype ?? "f32";
    this.initializer = options.initializer;
  }

  /** The data, if there is some yet. */
  get data(): TensorData | undefined {
    return this.#data;
  }

  /** The data of the parameter called `name`. @throws {GraphError} If there is none yet. */
  require(name: string): TensorData {
    if (this.#data) return this.#data;
    throw new GraphError(`Cannot use parameter "${name}": it has no data yet`, {
      hint: "call load(state) or initialize({ seed }) on the module first",
    });
  }

  /**
   * Takes `tensor` as data. Nothing is read or copied: a lazy tensor is read by slices when a rank compiles its part.
   *
   * @throws {ShapeError} If dtype or shape is another.
   */
  set(name: string, tensor: StateTensor): void {
    if (tensor.dtype !== this.dtype || tensor.shape.join() !== this.shape.join()) {
      throw new ShapeError(
        `Cannot load "${name}": expected ${this.dtype}[${this.shape}], found ${tensor.dtype}[${tensor.shape}]`,
      );
    }
    if ("data" in tensor) this.#data = inlineData(tensor.dtype, tensor.shape, tensor.data);
    else this.#data = "name" in tensor ? tensorData(tensor) : tensor;
  }

  /** Draws the data that `seed` gives to a parameter called `name`; see {@linkcode initialData}. */
  initialize(name: string, seed: number): void {
    this.#data = initialData(this.initializer, { name, seed, dtype: this.dtype, shape: this.shape });
  }
}
