/** What C headers say of functions and enums, as far as the tables of src/ffi need it. */

/** The parameters of C function `name` in `header`, each as text without its name; undefined if it is not declared there. */
export function prototypeOf(header: string, name: string): string[] | undefined {
  const code = header.replace(/\/\*[^]*?\*\//g, " ").replace(/\/\/.*$/gm, "");
  const declared = new RegExp(`[\\w*]\\s*\\b${name}\\s*\\(([^;{]*?)\\)\\s*;`).exec(code);
  if (declared === null) return undefined;
  const text = declared[1]!.replace(/\s+/g, " ").trim();
  return text === "" || text === "void" ? [] : text.split(",").map((p) => p.trim());
}

/** The table's word for a C parameter: the exact type, or `pointer` for what may be given as an address or as a buffer. */
export function kindOf(parameter: string): string {
  const text = parameter.replace(/\bconst\b/g, "").trim();
  if (/\*|\[\d*\]$/.test(text)) return "pointer";
  const type =
    text.replace(/\s*\b\w+$/, (name) => /^(unsigned|int|long|short|char)$/.test(name.trim()) ? name : "").trim() ||
    text;
  const known = KINDS[type];
  if (known !== undefined) return known;
  return /^(CUstream|CUevent|CUcontext|CUmodule|CUfunction|CUgraph|CUgraphExec|CUmemoryPool)$/.test(type) ||
      /^(cublas(Lt)?\w*_t|cudaStream_t|ncclComm_t|nvrtcProgram)$/.test(type)
    ? "u64"
    : `? ${type}`;
}

const KINDS: Readonly<Record<string, string>> = {
  "int": "i32",
  "unsigned int": "u32",
  "unsigned char": "u8",
  "unsigned short": "u16",
  "size_t": "usize",
  "int64_t": "i64",
  "long long int": "i64",
  "uint64_t": "u64",
  "unsigned long long": "u64",
  "cuuint64_t": "u64",
  "CUdeviceptr": "u64",
  "CUdevice": "i32",
  ...Object.fromEntries(
    [
      ...[
        "CUdevice_attribute",
        "CUresult",
        "CUmemPool_attribute",
        "CUstreamCaptureMode",
        "CUfunction_attribute",
        "nvrtcResult",
      ],
      ...[
        "cublasOperation_t",
        "cudaDataType",
        "cudaDataType_t",
        "cublasComputeType_t",
        "cublasGemmAlgo_t",
        "cublasMath_t",
      ],
      ...["cublasStatus_t", "libraryPropertyType", "cublasLtMatmulDescAttributes_t", "cublasLtMatrixLayoutAttribute_t"],
      ...[
        "cublasLtMatmulPreferenceAttributes_t",
        "ncclDataType_t",
        "ncclRedOp_t",
        "ncclResult_t",
        "ncclScalarResidence_t",
      ],
    ].map((type) => [type, "i32"]),
  ),
  "ncclUniqueId": "struct",
  "CUipcMemHandle": "struct",
};

/** Where `table` differs from `header`, one line each; functions that the header lacks are left out. */
export function tableDifferences(
  header: string,
  table: Deno.ForeignLibraryInterface,
): { compared: number; wrong: string[] } {
  let compared = 0;
  const wrong: string[] = [];
  for (const [name, row] of Object.entries(table)) {
    const prototype = prototypeOf(header, name) ?? prototypeOf(header, name.replace(/_v\d+$/, ""));
    if (prototype === undefined || !("parameters" in row)) continue;
    compared++;
    const ours = row.parameters.map((p) => typeof p === "object" ? "struct" : p as string),
      theirs = prototype.map(kindOf);
    const fits = ours.length === theirs.length &&
      ours.every((kind, i) => kind === theirs[i] || (theirs[i] === "pointer" && (kind === "buffer" || kind === "u64")));
    if (!fits) wrong.push(`${name}: (${ours.join(", ")}) is declared (${prototype.join(", ")})`);
  }
  return { compared, wrong };
}

/** A C program that prints the value of each name in `names`, and of each expression in `sizes`. */
export function valuesProgram(includes: readonly string[], expressions: readonly string[]): string {
  return [
    "#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>",
    ...includes.map((file) => `#include <${file}>`),
    "int main(void) {",
    ...expressions.map((e) => `  printf("%s=%lld\\n", ${JSON.stringify(e)}, (long long)(${e}));`),
    "  return 0;\n}\n",
  ].join("\n");
}
