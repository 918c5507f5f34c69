// Planes of a tensor to and from buffers with a plane in every lane.
//
// Where a row lies together in memory, tiles of four pixels of four planes are transposed in registers; where the
// planes' values of a pixel do (channels_last), they are copied as they are; else entry by entry.
#pragma once

#include "../plane_loops.h"
#include "storage.h"
#include "vectors.h"

#include <algorithm>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// A row of every plane: entry `pixel` of plane `plane` is at(plane, pixel).
template <typename Entry>
struct Rows {
    Entry* data;  // of the first pixel, without a plane's offset
    const int64_t* first;
    int64_t planes, stride;

    Entry* at(int64_t plane, int64_t pixel) const { return data + first[plane] + pixel * stride; }
    Rows from(int64_t plane, int64_t pixel, int64_t count) const {
        return {data + pixel * stride, first + plane, count, stride};
    }
};

// Calls body(rows, pixels) for every row, or, where rows follow each other evenly, for several at once.
template <typename Entry, typename Body>
void for_each_run(const LanePlanes& planes, bool row_by_row, const Body& body) {
    Axes size = planes.size;
    int64_t pixels = size[2];
    for (int axis = 1; axis >= 0 && !row_by_row && planes.stride[axis] == pixels * planes.stride[2]; --axis) {
        pixels *= size[axis];
        size[axis] = 1;
    }
    for (int64_t z = 0; z < size[0]; ++z) {
        for (int64_t y = 0; y < size[1]; ++y) {
            Entry* row = static_cast<Entry*>(planes.data) + z * planes.stride[0] + y * planes.stride[1];
            body(Rows<Entry>{row, planes.first.data(), planes.count, planes.stride[2]}, pixels);
        }
    }
}

// Calls body(rows, vector, first pixel, pixels) for the planes of every vector, for so many pixels at a time that what
// one vector touches is still in the L1 cache for the next: the planes' values of a pixel may share a cache line, and
// so do the lanes of four planes and of the next four in the buffer.
template <typename T, typename Entry, typename Body>
void for_each_vector(const Rows<Entry>& rows, int64_t pixels, const Body& body) {
    constexpr int64_t kPixelsAtOnce = 128;
    for (int64_t pixel = 0; pixel < pixels; pixel += kPixelsAtOnce) {
        for (int64_t plane = 0; plane < rows.planes; plane += kLanes<T>) {
            body(rows.from(plane, pixel, std::min(rows.planes - plane, kLanes<T>)), plane / kLanes<T>, pixel,
                 std::min(pixels - pixel, kPixelsAtOnce));
        }
    }
}

// Which vectors are full and take planes that follow each other in memory.
template <typename T>
std::array<bool, kMostPlanes / kLanes<T>> adjacent_vectors(const LanePlanes& planes) {
    std::array<bool, kMostPlanes / kLanes<T>> adjacent{};
    for (int64_t begin = 0; begin + kLanes<T> <= planes.count; begin += kLanes<T>) {
        bool follow = true;
        for (int64_t plane = begin + 1; plane < begin + kLanes<T>; ++plane) {
            follow = follow && planes.first[plane] == planes.first[begin] + plane - begin;
        }
        adjacent[begin / kLanes<T>] = follow;
    }
    return adjacent;
}

using Four = Vector<float, 16>;

// Rows become columns.
inline void transpose(Four (&m)[4]) {
    const Four ab_low = __builtin_shufflevector(m[0], m[1], 0, 4, 1, 5);
    const Four ab_high = __builtin_shufflevector(m[0], m[1], 2, 6, 3, 7);
    const Four cd_low = __builtin_shufflevector(m[2], m[3], 0, 4, 1, 5);
    const Four cd_high = __builtin_shufflevector(m[2], m[3], 2, 6, 3, 7);
    m[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    m[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    m[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    m[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

inline void round_to(const Four& values, float* entries) { store(values, entries); }
template <typename Entry>
void round_to(const Four& values, Entry* entries) {
    for (int i = 0; i < 4; ++i) {
        round_to(values[i], entries[i]);
    }
}

// Pixels of four planes, a tile of four at a time; step: of pixels, 1 or -1.
template <int step, typename Entry>
void gather_tiles(const Rows<Entry>& rows, int64_t plane, int64_t end, float* buffer) {
    const Entry* from[4];
    for (int i = 0; i < 4; ++i) {
        from[i] = rows.at(plane + i, 0) + (step < 0 ? -3 : 0);
    }
    float* to = buffer + plane;
    for (int64_t pixel = 0; pixel < end; pixel += 4, to += 4 * kLanes<float>) {
        Four tile[4];
        for (int i = 0; i < 4; ++i) {
            float values[4];
            for (int j = 0; j < 4; ++j) {
                values[j] = widen<float>(from[i][j]);
            }
            tile[i] = load_as<Four>(values);
            from[i] += 4 * step;
        }
        transpose(tile);
        for (int j = 0; j < 4; ++j) {
            store(tile[j], to + (step < 0 ? 3 - j : j) * kLanes<float>);
        }
    }
}

template <typename Entry>
void scatter_tiles(const Rows<Entry>& rows, int64_t plane, int64_t end, const float* buffer) {
    Entry* to[4];
    for (int i = 0; i < 4; ++i) {
        to[i] = rows.at(plane + i, 0);
    }
    const float* from = buffer + plane;
    for (int64_t pixel = 0; pixel < end; pixel += 4, from += 4 * kLanes<float>) {
        Four tile[4];
        for (int j = 0; j < 4; ++j) {
            tile[j] = load_as<Four>(from + j * kLanes<float>);
        }
        transpose(tile);
        for (int i = 0; i < 4; ++i) {
            round_to(tile[i], to[i]);
            to[i] += 4;
        }
    }
}

// Calls tiles(plane, end) for the tiles of 4 x 4 of four planes at a time, up to a pixel; and single(plane, pixel) for
// what is left.
template <typename Tiles, typename Single>
void for_each_tile(int64_t planes, int64_t pixels, const Tiles& tiles, const Single& single) {
    const int64_t whole_pixels = pixels / 4 * 4, whole_planes = planes / 4 * 4;
    for (int64_t plane = 0; plane < whole_planes; plane += 4) {
        tiles(plane, whole_pixels);
    }
    for (int64_t plane = 0; plane < planes; ++plane) {
        for (int64_t pixel = plane < whole_planes ? whole_pixels : 0; pixel < pixels; ++pixel) {
            single(plane, pixel);
        }
    }
}

template <typename T, typename Entry>
void gather_run(const Rows<const Entry>& rows, int64_t pixels, bool adjacent, T* buffer) {
    const auto single = [&](int64_t plane, int64_t pixel) {
        buffer[pixel * kLanes<T> + plane] = widen<T>(*rows.at(plane, pixel));
    };
    if (rows.planes < kLanes<T>) {
        std::memset(buffer, 0, pixels * kVectorBytes);
    }
    if (adjacent) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const Entry* from = rows.at(0, pixel);
            for (int64_t plane = 0; plane < kLanes<T>; ++plane) {
                buffer[pixel * kLanes<T> + plane] = widen<T>(from[plane]);
            }
        }
        return;
    }
    if constexpr (sizeof(T) == sizeof(float)) {
        if (rows.stride == 1) {
            return for_each_tile(
                rows.planes, pixels, [&](int64_t plane, int64_t end) { gather_tiles<1>(rows, plane, end, buffer); },
                single);
        }
        if (rows.stride == -1) {
            return for_each_tile(
                rows.planes, pixels, [&](int64_t plane, int64_t end) { gather_tiles<-1>(rows, plane, end, buffer); },
                single);
        }
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t plane = 0; plane < rows.planes; ++plane) {
            single(plane, pixel);
        }
    }
}

template <typename T, typename Entry>
void scatter_run(const Rows<Entry>& rows, int64_t pixels, bool adjacent, const T* buffer) {
    const auto single = [&](int64_t plane, int64_t pixel) {
        round_to(buffer[pixel * kLanes<T> + plane], *rows.at(plane, pixel));
    };
    if (adjacent) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            Entry* to = rows.at(0, pixel);
            for (int64_t plane = 0; plane < kLanes<T>; ++plane) {
                round_to(buffer[pixel * kLanes<T> + plane], to[plane]);
            }
        }
        return;
    }
    if constexpr (sizeof(T) == sizeof(float)) {
        if (rows.stride == 1) {
            return for_each_tile(
                rows.planes, pixels, [&](int64_t plane, int64_t end) { scatter_tiles(rows, plane, end, buffer); },
                single);
        }
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t plane = 0; plane < rows.planes; ++plane) {
            single(plane, pixel);
        }
    }
}

template <typename T>
void gather(const LanePlanes& planes, int64_t zeros_before, int64_t zeros_after, T* buffer) {
    const auto adjacent = adjacent_vectors<T>(planes);
    const int64_t zeros = zeros_before + zeros_after;
    const int64_t vector_stride = planes.size[0] * planes.size[1] * (planes.size[2] + zeros) * kLanes<T>;
    visit_storage<T>(planes.storage, [&]<typename Entry>() {
        for_each_run<const Entry>(planes, zeros > 0, [&](const auto& rows, int64_t pixels) {
            T* const row = buffer + zeros_before * kLanes<T>;
            const int64_t padded_planes = zeros > 0 ? rows.planes : 0;
            for (int64_t plane = 0; plane < padded_planes; plane += kLanes<T>) {
                T* const of_vector = row + plane / kLanes<T> * vector_stride;
                std::memset(of_vector - zeros_before * kLanes<T>, 0, zeros_before * kVectorBytes);
                std::memset(of_vector + pixels * kLanes<T>, 0, zeros_after * kVectorBytes);
            }
            for_each_vector<T>(rows, pixels, [&](const auto& some, int64_t vector, int64_t first, int64_t count) {
                gather_run(some, count, adjacent[vector], row + vector * vector_stride + first * kLanes<T>);
            });
            buffer = row + (pixels + zeros_after) * kLanes<T>;
        });
    });
}

template <typename T>
void scatter(const T* buffer, const LanePlanes& planes) {
    const auto adjacent = adjacent_vectors<T>(planes);
    const int64_t vector_stride = product(planes.size) * kLanes<T>;
    visit_storage<T>(planes.storage, [&]<typename Entry>() {
        for_each_run<Entry>(planes, false, [&](const auto& rows, int64_t pixels) {
            for_each_vector<T>(rows, pixels, [&](const auto& some, int64_t vector, int64_t first, int64_t count) {
                scatter_run(some, count, adjacent[vector], buffer + vector * vector_stride + first * kLanes<T>);
            });
            buffer += pixels * kLanes<T>;
        });
    });
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
