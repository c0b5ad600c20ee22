/** Products with epilogues: by cuBLASLt, whose choice of an algorithm is kept for products of the same form. */
import type { DType } from "../../core/dtype.ts";
import { UnavailableError } from "../../core/errors.ts";
import { CUBLAS_ENUM } from "../../ffi/cublas.ts";
import { CUBLAS_LT_ENUM as LT, CublasLt, HEURISTIC_RESULT, type LtHandle } from "../../ffi/cublas_lt.ts";
import type { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import type { Epilogue, GemmStep } from "../../ops/kernels/kernel.ts";

/** What all products share. */
export interface LtTarget {
  readonly libraries: CudaLibraries;
  readonly stream: bigint;
  readonly workspace: { readonly address: bigint; readonly bytes: number };
}

/** A product as cuBLAS takes it: by columns, so that the second factor comes first. */
export interface LtProduct {
  readonly step: GemmStep;
  readonly left: bigint;
  readonly right: bigint;
  readonly to: bigint;
  readonly bias: bigint | undefined;
}

const TYPES: Partial<Record<DType, number>> = {
  f32: CUBLAS_ENUM.CUDA_R_32F,
  f16: CUBLAS_ENUM.CUDA_R_16F,
  bf16: CUBLAS_ENUM.CUDA_R_16BF,
};

/** All that is made for one form of a product. */
interface Plan extends Disposable {
  readonly desc: LtHandle;
  readonly left: LtHandle;
  readonly right: LtHandle;
  readonly to: LtHandle;
  /** `cublasLtMatmulHeuristicResult_t`, which begins with the algorithm. */
  readonly algorithm: Uint8Array<ArrayBuffer>;
  readonly workspace: bigint;
}

/** Forms that are remembered; lengths of prompts are many. */
const KEPT = 256;

function epilogueCode({ bias, activation }: Epilogue): number {
  if (activation === "gelu") return bias ? LT.CUBLASLT_EPILOGUE_GELU_BIAS : LT.CUBLASLT_EPILOGUE_GELU;
  if (activation === "relu") return bias ? LT.CUBLASLT_EPILOGUE_RELU_BIAS : LT.CUBLASLT_EPILOGUE_RELU;
  return bias ? LT.CUBLASLT_EPILOGUE_BIAS : LT.CUBLASLT_EPILOGUE_DEFAULT;
}

/** The largest power of two, up to 256, of which an address is a multiple. */
function alignmentOf(address: bigint): number {
  let alignment = 256;
  while (address % BigInt(alignment) !== 0n) alignment /= 2;
  return alignment;
}

/** cuBLASLt on one stream. */
export class LtProducts implements Disposable {
  readonly #lt: CublasLt;
  readonly #handle: LtHandle;
  readonly #target: LtTarget;
  readonly #plans = new Map<string, Plan>();
  readonly #one = Float32Array.of(1);
  readonly #zero = Float32Array.of(0);

  /** @throws {UnavailableError} If there is no libcublasLt. */
  constructor(target: LtTarget) {
    this.#target = target;
    this.#lt = new CublasLt(target.libraries);
    this.#handle = this.#lt.create();
  }

  /** A product, ready to be put into the stream again and again. @throws {UnavailableError} If cuBLASLt knows no way to compute it. */
  prepare(product: LtProduct): () => void {
    const { step, left, right, to, bias } = product;
    const addresses = [left, right, to, to].map(alignmentOf), { m, n, k, a, b, c, epilogue = {} } = step;
    const key = [m, n, k, a.stride, a.transposed, b.stride, b.transposed, c.stride, c.operand.dtype, step.alpha];
    const name = [...key, epilogueCode(epilogue), ...addresses].join();
    const alpha = step.alpha === 1 ? this.#one : Float32Array.of(step.alpha), pointer = BigUint64Array.of(bias ?? 0n);
    const { raw, check } = this.#lt, { stream, workspace } = this.#target;
    const planOf = () => this.#plans.get(name) ?? this.#plan(name, product, addresses);
    planOf();
    return () => {
      const plan = planOf();
      if (bias !== undefined) {
        const attribute = LT.CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        check(
          raw.cublasLtMatmulDescSetAttribute(plan.desc.value, attribute, pointer, 8n),
          "cublasLtMatmulDescSetAttribute",
        );
      }
      check(
        raw.cublasLtMatmul(
          this.#handle.value,
          plan.desc.value,
          alpha,
          left,
          plan.left.value,
          right,
          plan.right.value,
          this.#zero,
          to,
          plan.to.value,
          to,
          plan.to.value,
          plan.algorithm,
          workspace.address,
          plan.workspace,
          stream,
        ),
        "cublasLtMatmul",
      );
    };
  }

  #plan(name: string, { step, bias }: LtProduct, alignments: readonly number[]): Plan {
    const { m, n, k, a, b, c, epilogue = {} } = step, type = TYPES[c.operand.dtype]!, lt = this.#lt;
    using stack = new DisposableStack();
    const desc = stack.use(lt.matmulDesc(CUBLAS_ENUM.CUBLAS_COMPUTE_32F, CUBLAS_ENUM.CUDA_R_32F));
    const set = (attribute: number, value: number) =>
      lt.call.cublasLtMatmulDescSetAttribute(desc.value, attribute, Int32Array.of(value), 4n);
    const op = (transposed: boolean) => transposed ? CUBLAS_ENUM.CUBLAS_OP_T : CUBLAS_ENUM.CUBLAS_OP_N;
    set(LT.CUBLASLT_MATMUL_DESC_TRANSA, op(b.transposed));
    set(LT.CUBLASLT_MATMUL_DESC_TRANSB, op(a.transposed));
    set(LT.CUBLASLT_MATMUL_DESC_EPILOGUE, epilogueCode(epilogue));
    if (bias !== undefined) {
      const pointer = BigUint64Array.of(bias);
      lt.call.cublasLtMatmulDescSetAttribute(desc.value, LT.CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer, 8n);
    }
    const layout = (rows: number, columns: number, stride: number, transposed: boolean) => {
      const [r, s] = transposed ? [columns, rows] : [rows, columns];
      return stack.use(lt.layout(type, BigInt(r), BigInt(s), BigInt(stride)));
    };
    const left = layout(n, k, b.stride, b.transposed), right = layout(k, m, a.stride, a.transposed);
    const to = layout(n, m, c.stride, false);
    using preference = lt.preference();
    const prefer = (attribute: number, value: Uint32Array<ArrayBuffer> | BigUint64Array<ArrayBuffer>) =>
      lt.call.cublasLtMatmulPreferenceSetAttribute(preference.value, attribute, value, BigInt(value.byteLength));
    prefer(LT.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, BigUint64Array.of(BigInt(this.#target.workspace.bytes)));
    [
      LT.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
      LT.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      LT.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
      LT.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ].forEach((attribute, i) => prefer(attribute, Uint32Array.of(alignments[i]!)));
    const algorithm = new Uint8Array(HEURISTIC_RESULT.bytes), found = new Int32Array(1);
    lt.call.cublasLtMatmulAlgoGetHeuristic(
      this.#handle.value,
      desc.value,
      left.value,
      right.value,
      to.value,
      to.value,
      preference.value,
      1,
      algorithm,
      found,
    );
    if (found[0] === 0) {
      throw new UnavailableError(
        `Cannot multiply [${m},${k}] by [${k},${n}] in ${c.operand.dtype} with an epilogue: cuBLASLt has no algorithm`,
        { hint: "report this with the name of the GPU and the version of cuBLASLt that `shardwise doctor` prints" },
      );
    }
    const workspace = new DataView(algorithm.buffer).getBigUint64(HEURISTIC_RESULT.workspaceAt, true);
    const handles = stack.move(),
      plan = { desc, left, right, to, algorithm, workspace, [Symbol.dispose]: () => handles.dispose() };
    if (this.#plans.size >= KEPT) this.#forget(this.#plans.keys().next().value!);
    this.#plans.set(name, plan);
    return plan;
  }

  #forget(name: string): void {
    this.#plans.get(name)?.[Symbol.dispose]();
    this.#plans.delete(name);
  }

  [Symbol.dispose](): void {
    for (const name of [...this.#plans.keys()]) this.#forget(name);
    this.#handle[Symbol.dispose]();
  }
}
