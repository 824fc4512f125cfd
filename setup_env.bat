@echo off
rem Make the folder venv ready: the packages of requirements.txt, with the PyTorch build that fits this machine. Prints nothing if it is ready.
rem This makes the environment; setup_env.py fills it.
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul 2>nul
cd /d "%~dp0"
set "PYTHONUTF8=1"
rem set by other programs, they would make Python and pip use other folders
set "PYTHONHOME="
set "PYTHONPATH="
set "PYTHONNOUSERSITE=1"
set "PIP_USER=0"
set "PIP_TARGET="
set "PIP_PREFIX="
set "py=%~dp0venv\Scripts\python.exe"
set "rc=6"
if not exist "setup_env.py" goto incomplete
if not exist "requirements.txt" goto incomplete
rem --help, or what it would ignore
if not "%~1"=="" goto usage
if not exist "%py%" goto find_python
rem fails after the underlying Python was removed
"%py%" -c "import pip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))" >nul 2>nul
set "rc=%errorlevel%"
if "%rc%"=="0" goto packages

:find_python
rem base is the command of a suitable Python, for a new cmd, which expands %PYTHON% itself: call would change ^ and percent signs in it,
rem and a python.bat, such as that of pyenv-win, would not return
set "base="
set "old="
set "new="
if defined PYTHON set "PYTHON=%PYTHON:"=%"
if defined PYTHON if "%PYTHON: =%"=="" set "PYTHON="
if defined PYTHON goto own_python
for %%v in ("py -3" "py -3.14" "py -3.13" "py -3.12" "py -3.11" "py -3.10" "python") do call :try %%v
goto tried
:own_python
set candidate="%%PYTHON%%"
call :try
:tried
if defined base goto make_venv
set "rc=1"
if defined new goto new_python
if defined old goto old_python
if defined PYTHON goto bad_python
>&2 echo error: there is no Python here, or only the shortcut to the Microsoft Store: install Python 3.10 to 3.14, 64 bit, from https://www.python.org/downloads/ with "Add python.exe to PATH", then run this again
goto end
:old_python
>&2 echo error: Python %old% is too old: install Python 3.10 to 3.14, 64 bit, from https://www.python.org/downloads/, then run this again
goto end
:new_python
>&2 echo error: Python %new% is too new for PyTorch: install Python 3.10 to 3.14, 64 bit, from https://www.python.org/downloads/ beside it, then run this again
goto end
:bad_python
>&2 echo error: PYTHON="%PYTHON%" does not start a Python
goto end

:make_venv
if defined PYTHON echo setup: making venv with "%PYTHON%", once
if not defined PYTHON echo setup: making venv with %base%, once
cmd /d /s /c "%base% -m venv --clear venv"
set "rc=%errorlevel%"
if "%rc%"=="0" goto packages
>&2 echo error: no virtual environment in venv, the reason is above: close the programs that use it, then run this again
set "rc=3"
goto end

:packages
"%py%" setup_env.py
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end
if not "%NO_PAUSE%"=="1" echo The environment is ready.
goto end
:usage
set "rc=2"
if "%~1"=="--help" set "rc=0"
if "%~1"=="-h" set "rc=0"
if "%~1"=="/?" set "rc=0"
echo usage: setup_env.bat
echo   PYTHON=C:\path\python.exe    the Python to start from, 3.10 to 3.14
echo   TORCH_INDEX_URL=URL          the pip index to take PyTorch from, whatever the GPU; to change the build later, delete venv first
echo   NO_PAUSE=1                   do not wait for a key at the end
echo Exit codes: 0 ready, 1 no suitable Python, 3 no virtual environment, 4 pip failed, 5 the packages do not import, 6 other files are missing.
goto end
:incomplete
>&2 echo error: other files of the project are not in this folder: if it is a zip file, extract all of it first; if it is a network folder \\..., copy it to a drive such as C:; then run it from there
:end
if not "%NO_PAUSE%"=="1" pause
exit /b %rc%

:try
rem sets base to a command, that of candidate if none is given, when it is a Python of 3.10 to 3.14, else old or new
if defined base goto :eof
if not "%~1"=="" set "candidate=%~1"
set "file=%TEMP%\nano_hindi_%RANDOM%.txt"
cmd /d /s /c "%candidate% --version" >"%file%" 2>&1
for /f "usebackq tokens=1-3 delims=. " %%a in ("%file%") do if "%%a"=="Python" call :version %%b %%c
del /q "%file%"
goto :eof

:version
rem major and minor version, or any words that follow Python in a message
for /f "delims=0123456789" %%x in ("%1%2") do goto :eof
if "%2"=="" goto :eof
if %1 equ 3 if %2 geq 10 if %2 leq 14 set base=%candidate%
if %1 equ 3 if %2 gtr 14 set "new=3.%2"
if %1 equ 3 if %2 lss 10 set "old=3.%2"
if %1 lss 3 set "old=%1.%2"
goto :eof
