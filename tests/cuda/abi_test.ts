/** The tables of src/ffi against NVIDIA's own libraries and headers, and kernels against its compilers. No GPU is needed. */
import assert from "node:assert/strict";
import { CUBLAS, CUBLAS_ENUM } from "../../src/ffi/cublas.ts";
import { CUBLAS_LT, CUBLAS_LT_ENUM, HEURISTIC_RESULT } from "../../src/ffi/cublas_lt.ts";
import { CU_ENUM, CUDA_DRIVER } from "../../src/ffi/cuda_driver.ts";
import { IPC_HANDLE_BYTES } from "../../src/ffi/cuda_handles.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { NCCL, Nccl, NCCL_CONFIG_BYTES, NCCL_ENUM, ncclConfig, UNIQUE_ID_BYTES } from "../../src/ffi/nccl.ts";
import { KernelCompileError, NVRTC, Nvrtc } from "../../src/ffi/nvrtc.ts";
import { peerText } from "../../src/runtime/cuda/peer_text.ts";
import { PRELUDE } from "../../src/runtime/cuda/prelude.ts";
import { kindOf, prototypeOf, tableDifferences, valuesProgram } from "./headers.ts";
import { ARCHITECTURES, type KernelText, nvccMissing, requireNvcc } from "./kernel_gate.ts";
import { KERNELS } from "./programs/kernels.cu.ts";
import { run, wheels } from "./wheels.ts";

/** Texts that show what a compiler takes; those of the product's ops are in kernel_texts_test.ts. */
const TEXTS: readonly KernelText[] = [{ name: "the tests' kernels", source: KERNELS }];
/** Kernels that the product brings along, which only NVRTC sees here: nvcc takes longer over them, in tests of their own. */
const OWN: readonly KernelText[] = [{
  name: "reductions over peer memory",
  source: PRELUDE + peerText({ shots: "one-shot", ranks: 8, dtype: "bf16", reduction: "sum" }).text +
    peerText({ shots: "two-shot", ranks: 3, dtype: "f64", reduction: "min" }).text,
}];

const found = await wheels(), missing = "missing" in found ? found.missing : undefined;
const site = "folder" in found ? found.folder : "";

const headers = await toolkit(), noHeaders = headers === undefined ? "there is no toolkit with cuda.h" : undefined;

/** `wheels`: whether it needs them too. */
function headerTest(name: string, fn: () => Promise<void>, o: { readonly wheels: boolean } = { wheels: false }): void {
  const reason = noHeaders ?? (o.wheels ? missing : undefined);
  Deno.test({ name: reason === undefined ? name : `${name} (skipped: ${reason})`, ignore: reason !== undefined, fn });
}

function wheelTest(name: string, fn: () => Promise<void> | void): void {
  Deno.test({
    name: missing === undefined ? name : `${name} (skipped: ${missing})`,
    ignore: missing !== undefined,
    fn,
  });
}

Deno.test("prototypes are read from headers, and C types become the tables' words", () => {
  const header = `CUresult CUDAAPI cuThing(CUdeviceptr *dptr, size_t n, unsigned int Flags, /* why */ CUstream hStream,
    const void *p, int list[]);\nncclResult_t  ncclGroupStart();`;
  const prototype = prototypeOf(header, "cuThing")!;
  assert.deepEqual(prototype.map(kindOf), ["pointer", "usize", "u32", "u64", "pointer", "pointer"]);
  assert.deepEqual(prototypeOf(header, "ncclGroupStart"), []);
  assert.equal(prototypeOf(header, "cuOther"), undefined);
  const right = { cuThing: { parameters: ["buffer", "usize", "u32", "u64", "u64", "buffer"], result: "i32" } } as const;
  assert.deepEqual(tableDifferences(header, right), { compared: 1, wrong: [] });
  const wrong = { cuThing: { parameters: ["buffer", "usize", "i32", "u64", "u64", "buffer"], result: "i32" } } as const;
  assert.match(tableDifferences(header, wrong).wrong[0]!, /^cuThing: .*i32.* is declared .*unsigned int Flags/);
});

wheelTest("NVIDIA's libcublas, libcublasLt, libnvrtc and libnccl have every function of the tables", () => {
  const libraries = new CudaLibraries({ env: {}, sitePackages: [site] });
  // Optional functions are asked for as well: these are the newest libraries.
  for (
    const [name, table] of [["libcublas", CUBLAS], ["libcublasLt", CUBLAS_LT], ["libnvrtc", NVRTC], [
      "libnccl",
      NCCL,
    ]] as const
  ) {
    const all = Object.fromEntries(Object.entries(table).map(([k, row]) => [k, { ...row, optional: false }]));
    const { path } = libraries.open(name, all as Deno.ForeignLibraryInterface);
    assert.ok(path.startsWith(site), path);
  }
});

wheelTest("the tables' parameters are those of NVIDIA's headers", async () => {
  const cu13 = `${site}/nvidia/cu13/include`;
  const read = async (...paths: string[]) => (await Promise.all(paths.map((p) => Deno.readTextFile(p)))).join("\n");
  const cases = [
    { table: NVRTC, header: await read(`${cu13}/nvrtc.h`) },
    { table: CUBLAS, header: await read(`${cu13}/cublas_api.h`, `${cu13}/cublas_v2.h`) },
    { table: CUBLAS_LT, header: await read(`${cu13}/cublasLt.h`) },
    { table: NCCL, header: await read(`${site}/nvidia/nccl/include/nccl.h`) },
  ];
  for (const { table, header } of cases) {
    const { compared, wrong } = tableDifferences(header, table);
    assert.deepEqual(wrong, []);
    assert.equal(compared, Object.keys(table).length);
  }
});

headerTest("struct sizes and enum values are those of NVIDIA's headers", async () => {
  const { flags } = headers!;
  const enums = { ...CUBLAS_ENUM, ...CUBLAS_LT_ENUM, ...NCCL_ENUM }, config = ncclConfig({ blocking: false });
  const sizes = {
    "sizeof(ncclUniqueId)": UNIQUE_ID_BYTES,
    "offsetof(ncclConfig_t, trafficClass)": 44,
    "offsetof(ncclConfig_t, splitShare)": 40,
    "offsetof(ncclConfig_t, netName)": 32,
    "offsetof(ncclConfig_t, blocking)": 16,
    "NCCL_CONFIG_UNDEF_INT": new DataView(config.buffer).getInt32(20, true),
    "sizeof(cublasLtMatmulHeuristicResult_t)": HEURISTIC_RESULT.bytes,
    "sizeof(cublasLtMatmulAlgo_t)": HEURISTIC_RESULT.algoBytes,
    "offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize)": HEURISTIC_RESULT.workspaceAt,
    "offsetof(cublasLtMatmulHeuristicResult_t, state)": HEURISTIC_RESULT.stateAt,
    "offsetof(cublasLtMatmulHeuristicResult_t, wavesCount)": HEURISTIC_RESULT.wavesAt,
  };
  assert.equal(NCCL_CONFIG_BYTES, 48);
  const values = await compiledValues(["cublas_v2.h", "cublasLt.h", "nccl.h"], [
    ...Object.keys(enums),
    ...Object.keys(sizes),
  ], [
    ...flags,
    `-I${site}/nvidia/cu13/include`,
    `-I${site}/nvidia/nccl/include`,
  ]);
  assert.deepEqual(values, { ...enums, ...sizes });
}, { wheels: true });

headerTest("the driver's table and enums are those of cuda.h", async () => {
  const { cuda, flags } = headers!;
  const { compared, wrong } = tableDifferences(cuda, CUDA_DRIVER);
  assert.deepEqual(wrong, []);
  assert.ok(compared > 60, `${compared} functions were compared`);
  const values = await compiledValues(
    ["cuda.h"],
    [...Object.keys(CU_ENUM), "sizeof(CUuuid)", "sizeof(CUipcMemHandle)"],
    flags,
  );
  assert.deepEqual(values, { ...CU_ENUM, "sizeof(CUuuid)": 16, "sizeof(CUipcMemHandle)": IPC_HANDLE_BYTES });
});

wheelTest("the real NCCL decodes a status, and names communicators by ids of 128 bytes", () => {
  const nccl = new Nccl(new CudaLibraries({ env: {}, sitePackages: [site] }));
  assert.ok(nccl.version >= 21400);
  assert.match(nccl.error(4, "ncclAllReduce").message, /^ncclAllReduce failed: invalid argument.* \(4\)/);
});

wheelTest(
  "the real NVRTC compiles every kernel text for every architecture that it has, and says what is wrong",
  () => {
    const nvrtc = new Nvrtc(new CudaLibraries({ env: {}, sitePackages: [site] }));
    const architectures = ARCHITECTURES.filter((a) => nvrtc.architectures.includes(a));
    assert.ok(architectures.length >= 3, nvrtc.architectures.join(", "));
    for (const { name, source } of [...TEXTS, ...OWN]) {
      for (const arch of architectures) {
        const options = [`--gpu-architecture=sm_${arch}`, "--std=c++17"];
        const { image, kind } = nvrtc.compile({ source, name, options });
        assert.equal(kind, "cubin");
        assert.equal(new TextDecoder().decode(image.subarray(1, 4)), "ELF");
      }
    }
    const wrong = {
      source: "__global__ void k(float* y) { y[0] = z; }",
      name: "k.cu",
      options: ["--gpu-architecture=sm_80"],
    };
    assert.throws(
      () => nvrtc.compile(wrong),
      (e) => e instanceof KernelCompileError && /identifier "z" is undefined/.test(e.log),
    );
  },
);

const noNvcc = await nvccMissing();
Deno.test({
  name: `nvcc compiles every kernel text for every architecture${noNvcc ? ` (skipped: ${noNvcc})` : ""}`,
  ignore: noNvcc !== undefined,
  fn: () => requireNvcc(TEXTS),
});
Deno.test({
  name: `nvcc's objections to a kernel text are told${noNvcc ? ` (skipped: ${noNvcc})` : ""}`,
  ignore: noNvcc !== undefined,
  fn: () =>
    assert.rejects(
      requireNvcc([{ name: "bad", source: "__global__ void k() { x; }" }], [80]),
      /nvcc refuses bad for 80/,
    ),
});

/** The text of cuda.h, and how to compile with it; undefined where there is no toolkit. */
async function toolkit(): Promise<{ cuda: string; flags: string[] } | undefined> {
  for (const root of [Deno.env.get("CUDA_HOME"), Deno.env.get("CUDA_PATH"), "/usr/local/cuda", ...numbered()]) {
    if (!root) continue;
    try {
      return { cuda: await Deno.readTextFile(`${root}/include/cuda.h`), flags: [`-I${root}/include`] };
    } catch {
      // not there
    }
  }
  return undefined;
}

function numbered(): string[] {
  try {
    return [...Deno.readDirSync("/usr/local")].map((e) => e.name).filter((n) => n.startsWith("cuda-")).map((n) =>
      `/usr/local/${n}`
    );
  } catch {
    return [];
  }
}

/** What the C compiler says that each expression is. */
async function compiledValues(
  includes: string[],
  expressions: string[],
  flags: string[],
): Promise<Record<string, number>> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/values.c`, valuesProgram(includes, expressions));
    const built = await run("cc", [...flags, "-w", `${folder}/values.c`, "-o", `${folder}/values`]);
    assert.ok(built.success, built.stderr.slice(0, 3000));
    const lines = (await run(`${folder}/values`, [])).stdout.trim().split("\n");
    return Object.fromEntries(
      lines.map((line) => [line.slice(0, line.lastIndexOf("=")), Number(line.slice(line.lastIndexOf("=") + 1))]),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
