# Fails if an object file of an instruction set has a symbol that the linker could merge with another unit's:
#   cmake -DNM=nm -DNAMESPACE=dcls::cpu::avx2 "-DOBJECTS=a.o;b.o" -P check_units.cmake
# An inline function that was not inlined is weak (W, V, u). Undefined symbols (U) may only be of the C library.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --demangle ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* ([WVuBDTR] |U [^\n]*[(:])[^\n]*" exported "${symbols}")
  list(FILTER exported EXCLUDE REGEX "${NAMESPACE}::")
  if(exported)
    list(JOIN exported "\n  " exported)
    message(FATAL_ERROR "${object} has symbols that are not its own (csrc/cpu/instruction_set.h):\n  ${exported}")
  endif()
endforeach()
