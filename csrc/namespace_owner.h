// Which copy of the library defines the operators of a process, when several are loaded.
#pragma once

namespace dcls {

// Whether this copy came first. Another one registers nothing, and says so on stderr.
bool owns_namespace();

}  // namespace dcls
