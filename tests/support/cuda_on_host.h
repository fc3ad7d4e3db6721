// CUDA for the host's compiler. A block of one warp runs as 32 fibers that wait for each other at every warp operation;
// the threads of other blocks run one after the other.
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __cudart_builtin__
#define CUDARTAPI

struct Index {
    unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx, blockDim;

struct alignas(16) int4 {
    int x, y, z, w;
};

namespace warp {

constexpr int LANES = 32;
constexpr size_t STACK_BYTES = 1 << 16;

struct Lane {
    ucontext_t context;
    alignas(16) char stack[STACK_BYTES];
    bool is_done;
};

static thread_local Lane *lanes;
static thread_local ucontext_t scheduler;
static thread_local int current;
static thread_local bool is_running;
static thread_local unsigned slots[LANES];

[[noreturn]] static void refuse(const char *why) {
    std::fprintf(stderr, "undefined on a GPU: %s\n", why);
    std::abort();
}

static void wait_for_warp(unsigned mask) {
    if (!is_running) refuse("a warp operation in a block that is not one warp");
    if (mask != 0xffffffffu) refuse("a warp operation of some lanes only");
    swapcontext(&lanes[current].context, &scheduler);
}

template <typename Value, typename Read>
static auto exchange(unsigned mask, Value value, Read read) {
    static_assert(sizeof(Value) == sizeof(unsigned));
    std::memcpy(&slots[current], &value, sizeof value);
    wait_for_warp(mask);
    const auto result = read();
    wait_for_warp(mask);
    return result;
}

static thread_local void (*work)(void *);
static thread_local void *argument;

static void lane_main() {
    work(argument);
    lanes[current].is_done = true;
    swapcontext(&lanes[current].context, &scheduler);
}

static void run(void (*kernel)(void *), void *with) {
    if (!lanes) lanes = new Lane[LANES];
    work = kernel, argument = with, is_running = true;
    for (int lane = 0; lane < LANES; ++lane) {
        lanes[lane].is_done = false;
        getcontext(&lanes[lane].context);
        lanes[lane].context.uc_stack.ss_sp = lanes[lane].stack;
        lanes[lane].context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&lanes[lane].context, lane_main, 0);
    }
    for (int done = 0; done < LANES;) {
        done = 0;
        for (int lane = LANES - 1; lane >= 0; --lane) {  // last first, to expose reliance on the order of lanes
            current = lane, threadIdx = {unsigned(lane), 0, 0};
            swapcontext(&scheduler, &lanes[lane].context);
            done += lanes[lane].is_done;
        }
        if (done && done < LANES) refuse("lanes that diverge at a warp operation");
    }
    is_running = false;
}

}  // namespace warp

static inline unsigned __ballot_sync(unsigned mask, bool value) {
    return warp::exchange(mask, unsigned(value), [] {
        unsigned ballot = 0;
        for (int lane = 0; lane < warp::LANES; ++lane) ballot |= warp::slots[lane] << lane;
        return ballot;
    });
}

template <typename Value>
static Value __shfl_xor_sync(unsigned mask, Value value, int offset) {
    return warp::exchange(mask, value, [offset] {
        Value result;
        std::memcpy(&result, &warp::slots[warp::current ^ offset], sizeof result);
        return result;
    });
}

static inline void __syncwarp() { warp::wait_for_warp(0xffffffffu); }
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

static inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A condition's handle is the address of its value.
extern "C" inline void cudaGraphSetConditional(unsigned long long handle, unsigned value) {
    *reinterpret_cast<unsigned *>(handle) = value;
}

// A kernel of at most six integers and pointers, and one float. The calling conventions of x86-64 and ARM64 pass both in
// registers of their own, so a kernel with fewer parameters ignores the rest.
struct Launch {
    void (*kernel)(long, long, long, long, long, long, float);
    const long *a;
    float f;
};

extern "C" void launch_on_host(
    void *kernel, const long *arguments, float number, const unsigned *grid, const unsigned *block) {
    Launch launch{reinterpret_cast<decltype(Launch::kernel)>(kernel), arguments, number};
    const auto thread = [](void *with) {
        const auto &[run, a, f] = *static_cast<Launch *>(with);
        run(a[0], a[1], a[2], a[3], a[4], a[5], f);
    };
    blockDim = {block[0], block[1], block[2]};
    const unsigned threads = block[0] * block[1] * block[2];
    for (unsigned b = 0; b < grid[0] * grid[1] * grid[2]; ++b) {
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (threads == warp::LANES && block[0] == threads) {
            warp::run(thread, &launch);
            continue;
        }
        for (unsigned t = 0; t < threads; ++t) {
            threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
            thread(&launch);
        }
    }
}
