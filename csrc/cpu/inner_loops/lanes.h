// Planes of a tensor to and from buffers with a plane in every lane (depthwise_loops.h).
//
// Where a row lies together in memory, tiles of four pixels of four planes are transposed in registers; where the
// planes' values of a pixel do (channels_last), they are copied as they are; else entry by entry.
#pragma once

#include "../depthwise_loops.h"
#include "storage.h"
#include "vectors.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// The plane offsets of a LanePlanes, without those of lanes that have none.
template <typename Entry>
struct Rows {
    Entry* data;  // of the first pixel, without a plane's offset
    const int64_t* first;
    int64_t planes, stride;

    Entry* at(int64_t plane, int64_t pixel) const { return data + first[plane] + pixel * stride; }
};

// Calls body(rows, pixels) for every row, or, where rows follow each other evenly, for several at once.
template <typename Entry, typename Body>
void for_each_run(const LanePlanes& planes, bool whole_rows, const Body& body) {
    Axes size = planes.size;
    int64_t pixels = size[2];
    for (int axis = 1; axis >= 0 && !whole_rows && planes.stride[axis] == pixels * planes.stride[2]; --axis) {
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

inline bool are_neighbours(const LanePlanes& planes) {
    for (int64_t plane = 1; plane < planes.count; ++plane) {
        if (planes.first[plane] != planes.first[0] + plane) {
            return false;
        }
    }
    return true;
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

// Four pixels of four planes; step: of pixels, 1 or -1.
template <int step, typename Entry>
void gather_tile(const Rows<Entry>& rows, int64_t plane, int64_t pixel, float* buffer) {
    Four tile[4];
    for (int i = 0; i < 4; ++i) {
        float values[4];
        const Entry* from = rows.at(plane + i, pixel) + (step < 0 ? -3 : 0);
        for (int j = 0; j < 4; ++j) {
            values[j] = widen<float>(from[j]);
        }
        tile[i] = load_as<Four>(values);
    }
    transpose(tile);
    for (int j = 0; j < 4; ++j) {
        store(tile[j], buffer + (pixel + (step < 0 ? 3 - j : j)) * kLanes<float> + plane);
    }
}

template <typename Entry>
void scatter_tile(const Rows<Entry>& rows, int64_t plane, int64_t pixel, const float* buffer) {
    Four tile[4];
    for (int j = 0; j < 4; ++j) {
        tile[j] = load_as<Four>(buffer + (pixel + j) * kLanes<float> + plane);
    }
    transpose(tile);
    for (int i = 0; i < 4; ++i) {
        Entry* to = rows.at(plane + i, pixel);
        for (int j = 0; j < 4; ++j) {
            round_to(tile[i][j], to[j]);
        }
    }
}

// Calls tile(plane, pixel) for all tiles of 4 x 4, and entry(plane, pixel) for what is left.
template <typename Tile, typename Single>
void for_each_tile(int64_t planes, int64_t pixels, const Tile& tile, const Single& single) {
    const int64_t whole_pixels = pixels / 4 * 4, whole_planes = planes / 4 * 4;
    for (int64_t pixel = 0; pixel < whole_pixels; pixel += 4) {
        for (int64_t plane = 0; plane < whole_planes; plane += 4) {
            tile(plane, pixel);
        }
    }
    for (int64_t plane = 0; plane < planes; ++plane) {
        for (int64_t pixel = plane < whole_planes ? whole_pixels : 0; pixel < pixels; ++pixel) {
            single(plane, pixel);
        }
    }
}

template <typename T, typename Entry>
void gather_run(const Rows<const Entry>& rows, int64_t pixels, bool neighbours, T* buffer) {
    const auto single = [&](int64_t plane, int64_t pixel) {
        buffer[pixel * kLanes<T> + plane] = widen<T>(*rows.at(plane, pixel));
    };
    if (rows.planes < kLanes<T>) {
        std::memset(buffer, 0, pixels * kVectorBytes);
    }
    if (neighbours && rows.planes == kLanes<T>) {
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
                rows.planes, pixels, [&](int64_t plane, int64_t pixel) { gather_tile<1>(rows, plane, pixel, buffer); },
                single);
        }
        if (rows.stride == -1) {
            return for_each_tile(
                rows.planes, pixels, [&](int64_t plane, int64_t pixel) { gather_tile<-1>(rows, plane, pixel, buffer); },
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
void scatter_run(const Rows<Entry>& rows, int64_t pixels, bool neighbours, const T* buffer) {
    const auto single = [&](int64_t plane, int64_t pixel) {
        round_to(buffer[pixel * kLanes<T> + plane], *rows.at(plane, pixel));
    };
    if (neighbours && rows.planes == kLanes<T>) {
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
                rows.planes, pixels, [&](int64_t plane, int64_t pixel) { scatter_tile(rows, plane, pixel, buffer); },
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
    const bool neighbours = are_neighbours(planes);
    visit_storage<T>(planes.storage, [&]<typename Entry>() {
        for_each_run<const Entry>(planes, zeros_before + zeros_after > 0, [&](const auto& rows, int64_t pixels) {
            std::memset(buffer, 0, zeros_before * kVectorBytes);
            buffer += zeros_before * kLanes<T>;
            gather_run(rows, pixels, neighbours, buffer);
            buffer += pixels * kLanes<T>;
            std::memset(buffer, 0, zeros_after * kVectorBytes);
            buffer += zeros_after * kLanes<T>;
        });
    });
}

template <typename T>
void scatter(const T* buffer, const LanePlanes& planes) {
    const bool neighbours = are_neighbours(planes);
    visit_storage<T>(planes.storage, [&]<typename Entry>() {
        for_each_run<Entry>(planes, false, [&](const auto& rows, int64_t pixels) {
            scatter_run(rows, pixels, neighbours, buffer);
            buffer += pixels * kLanes<T>;
        });
    });
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
