// NVRTC by the system's C++ compiler: the "cubin" is a shared object.
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sys/stat.h>
#include <unistd.h>
#include "state.h"

using namespace standin;

namespace {

struct Program {
  std::string source, name, log, image;
  bool cubin = false;
};
auto& programs = *new std::map<u64, Program*>;
auto& programs_lock = *new std::mutex;

Program* find(u64 handle) {
  std::lock_guard<std::mutex> guard(programs_lock);
  auto found = programs.find(handle);
  return found == programs.end() ? nullptr : found->second;
}

// The folder of this library; the shim's text lies beside it.
std::string folder() {
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&find), &info);
  std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/'));
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool spill(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  return bool(file.flush());
}

std::string hash(const std::string& text) {
  char out[33];
  u64 a = 0xcbf29ce484222325, b = 0x9e3779b97f4a7c15;
  for (unsigned char c : text) {
    a = (a ^ c) * 0x100000001b3;
    b = (b + c) * 0xff51afd7ed558ccd ^ (b >> 29);
  }
  snprintf(out, sizeof out, "%016llx%016llx", (unsigned long long)a, (unsigned long long)b);
  return out;
}

bool known(const std::string& option) {
  static const std::regex& pattern = *new std::regex(
      "(--gpu-architecture=|-arch=)(sm|compute)_[0-9]+[af]?|(--std|-std)=c\\+\\+(11|14|17|20)|--minimal|-minimal|--use_fast_math|"
      "(--fmad|--ftz|--prec-div|--prec-sqrt)=(true|false)|(--maxrregcount)=[0-9]+|(-D|--define-macro=)\\w+(=.*)?|"
      "--generate-line-info|-lineinfo|--extra-device-vectorization|--restrict|-default-device|--device-debug");
  return std::regex_match(option, pattern);
}

// What a C++ compiler cannot read, rewritten.
std::string translate(const std::string& source) {
  static const std::regex& dynamic = *new std::regex(
      "extern\\s+__shared__\\s+(?:__align__\\s*\\(\\s*\\d+\\s*\\)\\s+)?([\\w ]+?)\\s+(\\w+)\\s*\\[\\s*\\]\\s*;");
  return std::regex_replace(source, dynamic, "$1* $2 = ($1*)shim::dynamic_shared;");
}

int compile(Program& p, const std::string& defines) {
  static const std::regex& include = *new std::regex("(^|\n)[ \t]*#[ \t]*include[^\n]*");
  std::smatch match;
  if (std::regex_search(p.source, match, include)) {
    p.log = p.name + ": catastrophic error: cannot open source file (NVRTC has no header files):" + match.str();
    return 6;
  }
  static const std::regex& kernel = *new std::regex("__global__\\s+(?:__launch_bounds__\\s*\\(\\s*(\\w+)[^)]*\\)\\s*)?void\\s+(?:__launch_bounds__\\s*\\(\\s*(\\w+)[^)]*\\)\\s*)?(\\w+)\\s*\\(");
  bool sync = p.source.find("__sync") != std::string::npos || p.source.find("__shfl") != std::string::npos ||
              p.source.find("_sync(") != std::string::npos;
  std::string text = defines + "#include \"kernel_shim.h\"\n#line 1 \"" + p.name + "\"\n" + translate(p.source) + "\n";
  for (std::sregex_iterator at(p.source.begin(), p.source.end(), kernel), end; at != end; ++at) {
    std::string bound = (*at)[1].matched ? (*at)[1].str() : (*at)[2].matched ? (*at)[2].str() : "1024";
    text += "SHIM_EXPORT(" + (*at)[3].str() + ", " + (sync ? "true" : "false") + ", " + bound + ")\n";
  }
  std::string home = folder(), cache = home + "/kernels";
  mkdir(cache.c_str(), 0700);
  std::string kept = cache + "/" + hash(text) + ".so";
  if (access(kept.c_str(), R_OK) == 0) {
    p.image = slurp(kept);
    return 0;
  }
  std::string work = cache + "/XXXXXX";
  if (!mkdtemp(work.data())) return 11;
  const char* compiler = getenv("CXX");
  std::string cxx = compiler ? compiler : "c++";
  std::string command = "cd '" + work + "' && " + cxx + " -std=c++20 -O1 -w -fPIC -fvisibility=hidden -fno-extern-tls-init -I'" + home +
                        "' -fsanitize=alignment -fsanitize-recover=alignment -c k.cpp -o k.o 2>log && " + cxx +
                        " -shared -o k.so k.o 2>>log";
  bool done = spill(work + "/k.cpp", text) && system(command.c_str()) == 0;
  p.log = slurp(work + "/log");
  if (done) {
    p.image = slurp(work + "/k.so");
    rename((work + "/k.so").c_str(), kept.c_str());
  }
  for (const char* name : {"k.cpp", "k.o", "k.so", "log"}) unlink((work + "/" + name).c_str());
  rmdir(work.c_str());
  return done ? 0 : 6;
}

}  // namespace

API int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return 0;
}

API const char* nvrtcGetErrorString(int result) {
  switch (result) {
    case 0: return "NVRTC_SUCCESS";
    case 3: return "NVRTC_ERROR_INVALID_INPUT";
    case 4: return "NVRTC_ERROR_INVALID_PROGRAM";
    case 5: return "NVRTC_ERROR_INVALID_OPTION";
    case 6: return "NVRTC_ERROR_COMPILATION";
    case 11: return "NVRTC_ERROR_INTERNAL_ERROR";
    default: return "NVRTC_ERROR unknown";
  }
}

API int nvrtcCreateProgram(u64* out, const char* source, const char* name, int headers, const char* const*, const char* const*) {
  if (!source || headers != 0) return 3;
  auto* program = new Program;
  program->source = source;
  program->name = name ? name : "default_program";
  std::lock_guard<std::mutex> guard(programs_lock);
  *out = reinterpret_cast<u64>(program);
  programs[*out] = program;
  return 0;
}

API int nvrtcDestroyProgram(u64* handle) {
  std::lock_guard<std::mutex> guard(programs_lock);
  auto found = programs.find(*handle);
  if (found == programs.end()) return 4;
  delete found->second;
  programs.erase(found);
  *handle = 0;
  return 0;
}

API int nvrtcCompileProgram(u64 handle, int count, const char* const* options) {
  auto* program = find(handle);
  if (!program) return 4;
  std::string defines;
  for (int i = 0; i < count; i++) {
    std::string option = options[i];
    if (!known(option)) {
      program->log = "nvrtc: error: unrecognized option " + option + " found";
      return 5;
    }
    if (option.find("=sm_") != std::string::npos) program->cubin = true;
    size_t name = option.rfind("-D", 0) == 0 ? 2 : option.rfind("--define-macro=", 0) == 0 ? 15 : 0;
    if (name == 0) continue;
    std::string macro = option.substr(name);
    size_t equals = macro.find('=');
    defines += "#define " + (equals == std::string::npos ? macro + " 1" : macro.replace(equals, 1, " ")) + "\n";
  }
  return compile(*program, defines);
}

API int nvrtcGetProgramLogSize(u64 handle, u64* size) {
  auto* program = find(handle);
  if (!program) return 4;
  *size = program->log.size() + 1;
  return 0;
}

API int nvrtcGetProgramLog(u64 handle, char* log) {
  auto* program = find(handle);
  if (!program) return 4;
  memcpy(log, program->log.c_str(), program->log.size() + 1);
  return 0;
}

static int image_size(u64 handle, u64* size, bool cubin) {
  auto* program = find(handle);
  if (!program) return 4;
  *size = program->cubin == cubin ? program->image.size() : 0;
  return 0;
}

static int image(u64 handle, char* out) {
  auto* program = find(handle);
  if (!program) return 4;
  memcpy(out, program->image.data(), program->image.size());
  return 0;
}

API int nvrtcGetCUBINSize(u64 handle, u64* size) { return image_size(handle, size, true); }
API int nvrtcGetCUBIN(u64 handle, char* out) { return image(handle, out); }
API int nvrtcGetPTXSize(u64 handle, u64* size) { return image_size(handle, size, false); }
API int nvrtcGetPTX(u64 handle, char* out) { return image(handle, out); }
API int nvrtcGetNumSupportedArchs(int* count) {
  *count = 4;
  return 0;
}
API int nvrtcGetSupportedArchs(int* archs) {
  const int list[] = {75, 80, 90, 100};
  memcpy(archs, list, sizeof list);
  return 0;
}
API int nvrtcAddNameExpression(u64, const char*) { return 3; }
API int nvrtcGetLoweredName(u64, const char*, const char**) { return 3; }
