// Planes of a tensor to and from buffers with a plane in every lane: what inner_loops/plane_loops.h does.
//
// A *plane* is one channel of one image. Planes are gathered into buffers [vector][z][y][x][lane] of the compute dtype,
// which start at a multiple of kBufferAlignment bytes (aligned_vector.h); more than one vector, where a cache line
// holds values of more planes.
#pragma once

#include "../axes.h"

namespace dcls::cpu {

constexpr int64_t kMostPlanes = 16;

enum class Storage { float64, float32, float16, bfloat16 };

// The same box of some planes of a tensor, one for each lane of one vector after the other. The last vector may have
// fewer. Strides count entries.
struct LanePlanes {
    void* data;
    Storage storage;
    int64_t count;
    std::array<int64_t, kMostPlanes> first;  // entry of each plane
    Axes size, stride;
};

template <typename T>
struct PlaneLoops {
    // Reads planes into a buffer whose rows get zeros at their ends. Lanes without a plane are 0.
    void (*gather)(const LanePlanes& planes, int64_t zeros_before, int64_t zeros_after, T* buffer);
    // Writes a buffer to planes, rounded to their storage.
    void (*scatter)(const T* buffer, const LanePlanes& planes);
};

}  // namespace dcls::cpu
