// Runs the blocks of a kernel on the CPU: the threads of a block are fibres on ucontext, and the functions of
// libtorch's CUDA library that csrc/cuda calls do nothing, and there is no driver to be too old.
#include "cuda_runtime.h"

#include "cuda/driver.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace cuda_on_cpu {
namespace {

constexpr int kWarp = 32;

// Set by the tests, through ctypes.
struct Settings {
    int order = 0;             // in which threads and blocks run: 0 forward, 1 backward, else at random with this seed
    int64_t most_blocks = 0;   // of a grid, 0 for any number: kernels must do with any grid
    bool has_barriers = true;  // without, __syncthreads() and __syncwarp() do nothing
} settings;

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};

enum class State { ready, at_block_barrier, at_warp_barrier, finished };

constexpr size_t kStackBytes = 256 << 10;

// A fibre and its stack, which later blocks use again.
struct Fibre {
    Fibre()
        : stack(
              mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
        if (stack == MAP_FAILED) {
            throw std::bad_alloc();
        }
    }
    ~Fibre() { munmap(stack, kStackBytes); }
    Fibre(const Fibre&) = delete;

    void* stack;
    ucontext_t context{};
    State state = State::ready;
    Where where;
    std::vector<Copy> copies;
};

struct Warp {
    uint64_t brought[kWarp], given[kWarp];
    int arrived = 0;
};

class Block {
 public:
    void seed() { random_.seed(static_cast<unsigned>(settings.order)); }

    void run(dim3 block, size_t shared_bytes, const std::function<void()>& body) {
        body_ = &body;
        threads_ = block.x;
        while (fibres_.size() < threads_) {
            fibres_.push_back(std::make_unique<Fibre>());
        }
        warps_.assign((threads_ + kWarp - 1) / kWarp, {});
        // Of the exact size, for the address sanitizer; all bits set is NaN in every floating-point type.
        shared_ = std::make_unique<std::byte[]>(shared_bytes);
        std::memset(shared_.get(), 0xff, shared_bytes);
        for (unsigned thread = 0; thread < threads_; ++thread) {
            start(thread);
        }
        run_until_finished();
    }

    void* shared() { return shared_.get(); }
    Fibre& running() { return *fibres_[running_]; }
    Warp& warp() { return warps_[running_ / kWarp]; }

    void wait(State state, Where where) {
        Fibre& fibre = running();
        fibre.state = state;
        fibre.where = where;
        swapcontext(&fibre.context, &scheduler_);
    }

    // The kernel has done what is an error: it never goes on.
    void fail(const std::string& what, Where where) {
        failure_ = message(what, where);
        wait(State::at_block_barrier, where);
    }

    void arrive_in_warp(uint64_t value, Where where) {
        if (threads_ % kWarp != 0) {
            fail("a warp operation in a block of " + std::to_string(threads_) + " threads, which is no multiple of 32",
                 where);
        }
        Warp& own = warp();
        own.brought[running_ % kWarp] = value;
        if (++own.arrived == kWarp) {
            own.arrived = 0;
            std::copy(std::begin(own.brought), std::end(own.brought), std::begin(own.given));
            for (unsigned lane = 0; lane < kWarp; ++lane) {
                Fibre& other = *fibres_[running_ / kWarp * kWarp + lane];
                if (lane != running_ % kWarp && !same(other.where, where)) {
                    fail("lanes of a warp meet in different places", where);
                }
                other.state = State::ready;
            }
        } else {
            wait(State::at_warp_barrier, where);
        }
    }

 private:
    static void enter() { current.body_->operator()(), current.wait(State::finished, {}); }

    void start(unsigned thread) {
        Fibre& fibre = *fibres_[thread];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack;
        fibre.context.uc_stack.ss_size = kStackBytes;
        makecontext(&fibre.context, &Block::enter, 0);
        fibre.state = State::ready;
        fibre.copies.clear();
    }

    // 0 .. count - 1 in the order that is set.
    std::vector<unsigned> ordered(unsigned count) {
        std::vector<unsigned> numbers(count);
        std::iota(numbers.begin(), numbers.end(), 0);
        if (settings.order == 1) {
            std::reverse(numbers.begin(), numbers.end());
        } else if (settings.order > 1) {
            std::shuffle(numbers.begin(), numbers.end(), random_);
        }
        return numbers;
    }

    // Runs each lane that is ready until it waits. False if there was none.
    bool run_lanes(unsigned warp) {
        bool any_ran = false;
        for (const auto lane : ordered(std::min<unsigned>(kWarp, threads_ - warp * kWarp))) {
            const unsigned thread = warp * kWarp + lane;
            if (fibres_[thread]->state != State::ready) {
                continue;
            }
            any_ran = true;
            running_ = thread;
            threadIdx = dim3(thread);
            swapcontext(&scheduler_, &fibres_[thread]->context);
            if (!failure_.empty()) {
                throw std::runtime_error(failure_);
            }
        }
        return any_ran;
    }

    void run_until_finished() {
        failure_.clear();
        for (;;) {
            // A warp runs as far as it can before the next one does: only barriers keep it from getting ahead.
            for (const auto warp : ordered(static_cast<unsigned>(warps_.size()))) {
                while (run_lanes(warp)) {
                }
            }
            const auto count = [&](State state) {
                return std::count_if(fibres_.begin(), fibres_.begin() + threads_,
                                     [&](const auto& fibre) { return fibre->state == state; });
            };
            if (count(State::finished) == threads_) {
                return;
            }
            if (count(State::at_block_barrier) != threads_) {
                const auto stuck = std::find_if(fibres_.begin(), fibres_.begin() + threads_,
                                                [](const auto& fibre) { return fibre->state != State::finished; });
                throw std::runtime_error(message("threads wait for others that do not come", (*stuck)->where));
            }
            for (unsigned thread = 0; thread < threads_; ++thread) {
                if (!same(fibres_[thread]->where, fibres_[0]->where)) {
                    throw std::runtime_error(message("threads of a block meet in different places", fibres_[0]->where));
                }
                fibres_[thread]->state = State::ready;
            }
        }
    }

    static std::string message(const std::string& what, Where where) {
        std::ostringstream out;
        out << what << ": " << where.file_name() << ":" << where.line();
        return out.str();
    }

    static bool same(const Where& a, const Where& b) {
        return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
    }

    const std::function<void()>* body_ = nullptr;
    unsigned threads_ = 0, running_ = 0;
    std::vector<std::unique_ptr<Fibre>> fibres_;
    std::vector<Warp> warps_;
    std::unique_ptr<std::byte[]> shared_;
    ucontext_t scheduler_{};
    std::string failure_;
    std::mt19937 random_;

 public:
    static Block current;
};

Block Block::current;

void perform(std::vector<Copy>& copies) {
    for (const auto& copy : copies) {
        if (copy.from != nullptr) {
            std::memcpy(copy.to, copy.from, copy.bytes);
        } else {
            std::memset(copy.to, 0, copy.bytes);
        }
    }
    copies.clear();
}

}  // namespace

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    const int64_t most = settings.most_blocks > 0 ? settings.most_blocks : grid.x;
    gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(grid.x, most)));
    blockDim = block;
    Block::current.seed();
    for (unsigned index = 0; index < gridDim.x; ++index) {
        blockIdx = dim3(settings.order == 1 ? gridDim.x - 1 - index : index);
        Block::current.run(block, shared_bytes, body);
    }
}

void* shared_memory() { return Block::current.shared(); }

void wait_for_block(Where where) {
    if (settings.has_barriers) {
        Block::current.wait(State::at_block_barrier, where);
    }
}

void wait_for_warp(Where where) {
    if (settings.has_barriers) {
        Block::current.arrive_in_warp(0, where);
    }
}

const uint64_t* exchange_in_warp(uint64_t value, Where where) {
    Block::current.arrive_in_warp(value, where);
    return Block::current.warp().given;
}

void expect_aligned(const void* address, size_t bytes, Where where) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        Block::current.fail("an address that is no multiple of " + std::to_string(bytes) + " bytes", where);
    }
}

void copy_later(void* to, const void* from, size_t bytes, Where where) {
    expect_aligned(to, bytes, where);
    expect_aligned(from, bytes, where);
    Block::current.running().copies.push_back({to, from, bytes});
}

void wait_for_copies() { perform(Block::current.running().copies); }

}  // namespace cuda_on_cpu

bool dcls::cuda::driver_suffices() { return true; }

extern "C" {

__attribute__((visibility("default"))) void cuda_on_cpu_settings(int order, int64_t most_blocks, int has_barriers) {
    cuda_on_cpu::settings = {order, most_blocks, has_barriers != 0};
}

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
    *guard = nullptr;
    return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return AOTI_TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
    *stream = nullptr;
    return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** message) {
    *message = error == cudaSuccess ? nullptr : strdup(("CUDA error " + std::to_string(error)).c_str());
    return AOTI_TORCH_SUCCESS;
}

void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }

}  // extern "C"
