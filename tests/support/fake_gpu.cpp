// A GPU that is not there: tensors on `cuda` whose operators run on the CPU. An operator that reads
// a tensor of each device fails as it does on a GPU. Loaded by fake_gpu.py before torch.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <set>

using namespace at;
using Stack = torch::jit::Stack;

namespace c10::impl {
struct FakeGuard : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return getDevice(); }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, getDevice()); }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const noexcept override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard);
}  // namespace c10::impl

namespace at {
struct CUDAHooks : CUDAHooksInterface {  // torch finds it by this name
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(kCPU); }
  Generator getNewGenerator(DeviceIndex) const override { return detail::createCPUGenerator(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

// Return a tensor of `device` in the same memory.
Tensor on(const Tensor& tensor, Device device) {
  auto hold = new Storage(tensor.storage());
  DataPtr data(hold->mutable_data(), hold, [](void* hold) { delete static_cast<Storage*>(hold); }, device);
  Storage storage(Storage::use_byte_size_t(), hold->nbytes(), std::move(data), nullptr, /*resizable=*/false);
  using Backend = BackendComponent;
  auto keys = tensor.key_set().remove_backend(Backend::CPUBit).remove_backend(Backend::CUDABit);
  keys = keys | DispatchKeySet(device.is_cuda() ? Backend::CUDABit : Backend::CPUBit);
  auto impl = c10::make_intrusive<TensorImpl>(TensorImpl::VIEW, std::move(storage), keys, tensor.dtype());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return Tensor(std::move(impl));
}

// Replace each tensor of an argument or a result.
template <class F>
void replace(IValue& value, F&& other) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) value = other(value.toTensor());
  } else if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (auto& tensor : tensors) tensor = other(tensor);
    value = c10::List<Tensor>(tensors);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> tensors;
    for (auto& tensor : value.toOptionalTensorVector()) tensors.push_back(tensor ? std::optional(other(*tensor)) : tensor);
    value = tensors;
  }
}

// Run an operator of cuda on the CPU. `mixes` take tensors of both devices on a GPU too.
void run_on_cpu(const c10::OperatorHandle& op, DispatchKeySet, Stack* stack) {
  static const std::set<std::string> mixes = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_"};
  const auto& schema = op.schema();
  std::vector<std::pair<Tensor, Tensor>> given;  // each tensor on cuda, and what the CPU gets
  bool to_cpu = false;
  for (auto value = stack->end() - schema.arguments().size(); value != stack->end(); ++value) {
    replace(*value, [&](const Tensor& tensor) {
      if (!tensor.is_cuda()) {
        TORCH_CHECK(tensor.dim() == 0 || mixes.count(schema.name()), schema.name(), " got a tensor of the CPU among those of the GPU");
        return tensor;
      }
      given.emplace_back(tensor, on(tensor, kCPU));
      return given.back().second;
    });
    if (value->isDevice()) {
      to_cpu = value->toDevice().is_cpu();
      *value = Device(kCPU);
    }
  }
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (auto value = stack->end() - schema.returns().size(); value != stack->end(); ++value) {
    replace(*value, [&](const Tensor& tensor) {
      for (auto& [gpu, cpu] : given) {
        if (cpu.is_same(tensor)) return gpu;  // of an operator in place
      }
      return to_cpu ? tensor : on(tensor, Device(kCUDA, 0));
    });
  }
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  // what only CUDA has
  library.impl("mm.dtype", [](const Tensor& a, const Tensor& b, ScalarType dtype) { return at::mm(a.to(dtype), b.to(dtype)); });
  library.impl("addmm.dtype_out", [](const Tensor& self, const Tensor& a, const Tensor& b, ScalarType dtype, const Scalar& beta, const Scalar& alpha, Tensor& out) -> Tensor& {
    return at::addmm_out(out, self, a.to(dtype), b.to(dtype), beta, alpha);
  });
  // what torch registers for all devices at once calls kernels of CUDA that are not here
  auto& dispatcher = c10::Dispatcher::singleton();
  for (auto& name : dispatcher.getAllOpNames()) {
    auto op = dispatcher.findSchema(name);
    if (op && name.name.rfind("aten::", 0) == 0 && !op->hasKernelForDispatchKey(DispatchKey::CUDA) &&
        (op->hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd) ||
         op->hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutogradNonFunctional))) {
      library.impl(toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
    }
  }
}
