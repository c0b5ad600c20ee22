import assert from "node:assert/strict";
import { UnavailableError } from "../core/errors.ts";
import { CudaLibraries } from "./cuda_libraries.ts";

Deno.test("CUDA libraries are looked for in a told folder, then wheels, conda, the loader, the toolkit; 13 before 12", () => {
  const env = { SHARDWISE_CUDA_LIBS: "/told", CONDA_PREFIX: "/conda", CUDA_HOME: "/opt/cuda" };
  const libraries = new CudaLibraries({ env, sitePackages: ["/py"] });
  assert.deepEqual(libraries.candidates("libcublas"), [
    ...["/told/libcublas.so.13", "/told/libcublas.so.12"],
    ...["/py/nvidia/cu13/lib/libcublas.so.13", "/py/nvidia/cu13/lib/libcublas.so.12"],
    ...["/py/nvidia/cublas/lib/libcublas.so.13", "/py/nvidia/cublas/lib/libcublas.so.12"],
    ...["/conda/lib/libcublas.so.13", "/conda/lib/libcublas.so.12", "libcublas.so.13", "libcublas.so.12"],
    ...["/opt/cuda/lib64/libcublas.so.13", "/opt/cuda/lib64/libcublas.so.12"],
    ...["/opt/cuda/lib/libcublas.so.13", "/opt/cuda/lib/libcublas.so.12"],
    ...["/usr/local/cuda/lib64/libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.12"],
  ]);
  assert.ok(libraries.candidates("libnccl").includes("/py/nvidia/nccl/lib/libnccl.so.2"));
  assert.ok(!libraries.candidates("libcuda").some((path) => path.startsWith("/py")), "the driver is no Python package");
});

Deno.test("a variable that names a library's file is the only place that counts", () => {
  const env = { SHARDWISE_LIBNVRTC: "/mine/libnvrtc.so.12", SHARDWISE_CUDA_LIBS: "/told" };
  assert.deepEqual(new CudaLibraries({ env }).candidates("libnvrtc"), ["/mine/libnvrtc.so.12"]);
});

Deno.test("a library that is nowhere is an error with every place and the packages that have it", () => {
  const env = { SHARDWISE_LIBCUBLAS: "/no/such/libcublas.so.13" };
  assert.throws(() => new CudaLibraries({ env }).open("libcublas", {}), (error) => {
    assert.ok(error instanceof UnavailableError);
    assert.match(
      error.message,
      /^Cannot open libcublas: none of these loads\n +no such file: .no.such.libcublas\.so\.13$/,
    );
    assert.match(error.hint!, /pip install nvidia-cublas .*SHARDWISE_CUDA_LIBS/);
    return true;
  });
});

Deno.test("a file that is no library, or lacks a symbol, is passed over and its reason is told", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/libcublas.so.13`, "text");
    const search = { env: { SHARDWISE_LIBCUBLAS: `${folder}/libcublas.so.13` } };
    assert.throws(
      () => new CudaLibraries(search).open("libcublas", {}),
      /libcublas\.so\.13: .*(file too short|invalid ELF)/,
    );
    const libc = { env: { SHARDWISE_LIBNCCL: "libc.so.6" } };
    const table = { ncclGetVersion: { parameters: ["buffer"], result: "i32" } } as const;
    assert.throws(() => new CudaLibraries(libc).open("libnccl", table), /libc\.so\.6: .*ncclGetVersion/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("libraries of a CUDA version that the driver does not support are passed over", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const major of [12, 13]) await Deno.writeTextFile(`${folder}/libcublas.so.${major}`, "text");
    const libraries = new CudaLibraries({ env: { SHARDWISE_CUDA_LIBS: folder }, sitePackages: [] });
    libraries.driverVersion = 12040;
    assert.throws(() => libraries.open("libcublas", {}), (error) => {
      assert.match(
        (error as Error).message,
        /libcublas\.so\.13: needs a driver for CUDA 13, and this one is for 12\.4/,
      );
      assert.match((error as Error).message, /libcublas\.so\.12: .*file too short/);
      return true;
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
