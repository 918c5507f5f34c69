// Tiles of output pixels.
#pragma once

#include "../axes.h"

#include <algorithm>

namespace dcls::cpu {

// A box of pixels of some images. Its pixels are numbered image by image, the last axis fastest.
struct Tile {
    int64_t first_image, images;
    Axes begin, size;

    int64_t pixels() const { return images * product(size); }
};

// The pixels of images [first_image, first_image + images) cut into boxes of at most max_pixels pixels and of about
// the same size: as much of the last axis as fits, then of the axis before it, at last of the images.
class Tiling {
 public:
    Tiling(int64_t first_image, int64_t images, const Axes& extent, int64_t max_pixels)
        : first_image_(first_image), extent_{images, extent[0], extent[1], extent[2]} {
        int64_t room = max_pixels;
        for (int axis = kAxes; axis >= 0; --axis) {
            const int64_t most = std::clamp<int64_t>(room, 1, std::max<int64_t>(extent_[axis], 1));
            splits_[axis] = ceil_div(extent_[axis], most);
            size_[axis] = splits_[axis] == 0 ? 0 : ceil_div(extent_[axis], splits_[axis]);
            room = splits_[axis] == 1 ? room / size_[axis] : 1;
        }
    }

    int64_t count() const { return splits_[0] * splits_[1] * splits_[2] * splits_[3]; }
    // The pixels of the largest tile.
    int64_t max_pixels() const { return size_[0] * size_[1] * size_[2] * size_[3]; }
    int64_t images() const { return size_[0]; }
    Axes size() const { return {size_[1], size_[2], size_[3]}; }

    Tile operator[](int64_t index) const {
        std::array<int64_t, 4> begin{}, size{};
        for (int axis = kAxes; axis >= 0; --axis) {
            begin[axis] = index % splits_[axis] * size_[axis];
            // Rounding up can leave the last boxes short, or with nothing.
            size[axis] = std::clamp<int64_t>(extent_[axis] - begin[axis], 0, size_[axis]);
            index /= splits_[axis];
        }
        return {first_image_ + begin[0], size[0], {begin[1], begin[2], begin[3]}, {size[1], size[2], size[3]}};
    }

 private:
    int64_t first_image_;
    std::array<int64_t, 4> extent_, splits_{}, size_{};
};

}  // namespace dcls::cpu
