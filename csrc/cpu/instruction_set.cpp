#include "instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dcls::cpu {

namespace generic {
extern const AllInnerLoops kInnerLoops;
}
#ifdef DCLS_X86_64
namespace avx2 {
extern const AllInnerLoops kInnerLoops;
}
namespace avx512 {
extern const AllInnerLoops kInnerLoops;
}
#endif

namespace {

struct InstructionSet {
    const char* name;
    const AllInnerLoops* loops;
    bool is_available;
};

struct Choice {
    const InstructionSet* set = nullptr;
    std::string error;
};

Choice choose() {
    // From the plainest to the best. The features are those that CMakeLists.txt compiles the units for.
    static const InstructionSet sets[] = {
        {"generic", &generic::kInnerLoops, true},
#ifdef DCLS_X86_64
        {"avx2", &avx2::kInnerLoops,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")},
        {"avx512", &avx512::kInnerLoops,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")},
#endif
    };
    const char* const variable = std::getenv("DCLS_CPU_CAPABILITY");
    const std::string asked = variable != nullptr ? variable : "";
    Choice choice;
    std::string available;
    for (const InstructionSet& set : sets) {
        if (set.is_available) {
            available += (available.empty() ? "" : ", ") + std::string(set.name);
            if (asked.empty() || asked == set.name) {
                choice.set = &set;
            }
        }
    }
    if (choice.set == nullptr) {
        choice.error =
            "DCLS_CPU_CAPABILITY: expected one of " + available + " on this processor, but got \"" + asked + "\"";
    }
    return choice;
}

const Choice& choice() {
    static const Choice made = choose();
    return made;
}

}  // namespace

const AllInnerLoops& all_inner_loops() {
    if (choice().set == nullptr) {
        throw std::runtime_error(choice().error);
    }
    return *choice().set->loops;
}

bool has_inner_loops() { return choice().set != nullptr; }

}  // namespace dcls::cpu

// The name of the instruction set in use, or what is wrong with the one asked for; read by `python -m dcls_ops info`.
extern "C" __attribute__((visibility("default"))) const char* dcls_cpu_capability() {
    const auto& [set, error] = dcls::cpu::choice();
    return set != nullptr ? set->name : error.c_str();
}
