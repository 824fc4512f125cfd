@echo off
rem Make the folder venv ready: the packages of requirements.txt, with the PyTorch build that fits this machine. Prints nothing if it is ready.
rem   PYTHON=C:\path\python.exe    the Python to start from, 3.10 or newer
rem   TORCH_INDEX_URL=URL          the pip index to take PyTorch from, whatever the GPU; to change the build later, delete venv first
rem   NO_PAUSE=1                   do not wait for a key at the end
rem Exit codes: 0 ready, 1 no suitable Python, 3 no virtual environment, 4 pip failed, 5 the packages do not import.
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul 2>nul
cd /d "%~dp0"
set "PYTHONUTF8=1"
set "py=%~dp0venv\Scripts\python.exe"
set "update=update the NVIDIA driver from https://www.nvidia.com/drivers, delete venv and start me again to use the GPU fully"

rem venv\.requirements is a copy of requirements.txt and written last: without it, the setup is not finished
if not exist "venv\.requirements" goto unfinished
"%py%" -c "import filecmp, pip, sys; sys.exit(not filecmp.cmp('requirements.txt', r'venv\.requirements', False))" >nul 2>nul
set "rc=%errorlevel%"
if "%rc%"=="0" goto ready
del /q "venv\.requirements"
:unfinished
if not exist "%py%" goto find_python
rem fails after the underlying Python was removed
"%py%" -c "import pip, sys; sys.exit(sys.version_info < (3, 10))" >nul 2>nul
set "rc=%errorlevel%"
if "%rc%"=="0" goto packages

:find_python
set "base="
set "old="
set "store="
if defined PYTHON goto own_python
call :try py -3
if not defined base call :try python
goto tried
:own_python
call :try "%PYTHON%"
:tried
if defined base goto make_venv
set "rc=1"
if defined old goto old_python
if defined PYTHON goto bad_python
if defined store goto store_python
>&2 echo error: there is no Python here: install Python 3.10 or newer, 64 bit, from https://www.python.org/downloads/ with "Add python.exe to PATH", then start me again
goto end
:old_python
>&2 echo error: %old% is too old: install Python 3.10 or newer, 64 bit, from https://www.python.org/downloads/, then start me again
goto end
:bad_python
>&2 echo error: PYTHON="%PYTHON%" is no Python that starts
goto end
:store_python
>&2 echo error: python is only a shortcut to the Microsoft Store here: install Python 3.10 or newer, 64 bit, from https://www.python.org/downloads/ with "Add python.exe to PATH", then start me again
goto end

:make_venv
echo setup: making venv with %base%, once
%base% -m venv --clear venv
set "rc=%errorlevel%"
if "%rc%"=="0" goto packages
>&2 echo error: no virtual environment in venv, the reason is above: close the programs that use it, then start me again
set "rc=3"
goto end

:packages
set "build=cpu"
set "index=%TORCH_INDEX_URL%"
if defined index goto install
rem Which GPUs there are: the least capable counts
set "driver=0"
set "low=999"
set "high=0"
set "seen="
for /f "tokens=1-2 delims=, " %%a in ('nvidia-smi --query-gpu^=driver_version^,compute_cap --format^=csv^,noheader 2^>nul') do call :gpu "%%~a" "%%~b"
if not defined seen goto chosen
if "%driver%"=="0" goto no_gpu
rem Which PyTorch builds there are, best first: name, least NVIDIA driver, least and highest compute capability, times ten. As in setup_env.sh, sources too.
for %%r in ("cu130 580 75 999" "cu128 570 75 129" "cu126 525 50 99") do call :fits %%~r
if not "%build%"=="cpu" goto chosen
if %low% lss 50 goto old_gpu
echo notice: driver %driver% is too old for the GPU: the CPU build of PyTorch; %update%
goto chosen
:old_gpu
echo notice: a GPU of compute capability %low:~0,-1%.%low:~-1% is too old for PyTorch: the CPU build
goto chosen
:no_gpu
echo notice: nvidia-smi names no usable GPU: the CPU build of PyTorch; if there is a GPU, %update%
:chosen
set "index=https://download.pytorch.org/whl/%build%"

:install
rem torch with the versions that requirements.txt gives
set "torch=torch"
for /f "usebackq tokens=1" %%r in ("requirements.txt") do for /f "delims=<>=~!" %%n in ("%%r") do if "%%n"=="torch" set "torch=%%r"
echo setup: installing PyTorch from "%index%"
"%py%" -m pip install --disable-pip-version-check --no-deps --index-url "%index%" "%torch%"
set "rc=%errorlevel%"
if not "%rc%"=="0" goto pip_failed
echo setup: installing the other packages
"%py%" -m pip install -qq --disable-pip-version-check --requirement requirements.txt
set "rc=%errorlevel%"
if not "%rc%"=="0" goto pip_failed

rem Triton for Windows, of the minor version that this torch was released with: .ci/docker/triton_version.txt of pytorch
set "minor="
set "triton=3.7"
for /d %%d in (venv\Lib\site-packages\torch-*.dist-info) do for /f "tokens=2 delims=." %%m in ("%%~nxd") do set "minor=%%m"
if "%minor%"=="9" set "triton=3.5"
if "%minor%"=="10" set "triton=3.6"
if "%minor%"=="11" set "triton=3.6"
"%py%" -m pip install -qq --disable-pip-version-check "triton-windows==%triton%.*" >nul 2>nul
set "rc=%errorlevel%"
if not "%rc%"=="0" echo notice: triton-windows %triton% could not be installed: on a GPU, training works without torch.compile, more slowly

"%py%" -c "import pyarrow, torch, transformers; cuda = getattr(torch, 'cuda', None); print('setup: torch', torch.__version__, 'on', cuda.get_device_name() if cuda and cuda.is_available() else 'CPU')"
set "rc=%errorlevel%"
if "%rc%"=="0" goto stamp
>&2 echo error: the packages are installed but do not work, the reason is above: delete the folder venv and start me again
set "rc=5"
goto end
:stamp
copy /y requirements.txt "venv\.requirements" >nul
set "rc=%errorlevel%"
if "%rc%"=="0" goto ready
>&2 echo error: venv\.requirements cannot be written: free disk space, then start me again
set "rc=4"
goto end
:pip_failed
>&2 echo error: pip could not install the packages, its reason is above: check the connection and the free disk space, then start me again
set "rc=4"
goto end
:ready
set "rc=0"
if not "%NO_PAUSE%"=="1" echo The environment is ready.
:end
if not "%NO_PAUSE%"=="1" pause
exit /b %rc%

:try
rem a command: sets base to it when it is a Python of 3.10 or newer, else old or store
set "answer="
set "minor="
set "file=%TEMP%\nano_hindi_%RANDOM%.txt"
%* --version >"%file%" 2>&1
set /p "answer=" <"%file%"
del /q "%file%"
if not defined answer goto :eof
if not "%answer:Microsoft Store=%"=="%answer%" set "store=1"
if "%answer:~0,9%"=="Python 2." set "old=%answer%"
if not "%answer:~0,9%"=="Python 3." goto :eof
for /f "tokens=2 delims=." %%m in ("%answer%") do set "minor=%%m"
if %minor% geq 10 set base=%*
if %minor% lss 10 set "old=%answer%"
goto :eof

:gpu
rem driver version and compute capability of a GPU; an old driver answers with a sentence instead
set "seen=1"
set "version="
for /f "delims=." %%v in ("%~1") do set "version=%%v"
set "cap=%~2"
set "cap=%cap:.=%"
for /f "delims=0123456789" %%x in ("%version%%cap%") do goto :eof
set "driver=%version%"
if %cap% lss %low% set "low=%cap%"
if %cap% gtr %high% set "high=%cap%"
goto :eof

:fits
rem name, least driver, least and highest capability of a build: takes it when it is the first that fits
if not "%build%"=="cpu" goto :eof
if %driver% lss %2 goto :eof
if %low% lss %3 goto :eof
if %low% gtr %4 goto :eof
set "build=%1"
if %driver% lss 560 echo notice: driver %driver% is old, %build% may run with limits; %update%
if %high% gtr %4 echo notice: no build fits all GPUs here: %build% leaves those of compute capability %high:~0,-1%.%high:~-1% out
goto :eof
