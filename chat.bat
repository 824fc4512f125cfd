@echo off
rem Talk to a trained model, on a page in the browser or in this window.
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul 2>nul
cd /d "%~dp0"
set "PYTHONUTF8=1"
rem as in setup_env.bat
set "PYTHONHOME="
set "PYTHONPATH="
set "PIP_USER=0"
set "PIP_TARGET="
set "PIP_PREFIX="
set "py=%~dp0venv\Scripts\python.exe"
rem setup_env.bat must not wait for a key of its own
set "wait=1"
if "%NO_PAUSE%"=="1" set "wait="
set "NO_PAUSE=1"
set "rc=6"
if not exist "setup_env.bat" goto incomplete
if not exist "serve.py" goto incomplete
set "rc=0"
if "%~1"=="--help" goto usage
if "%~1"=="-h" goto usage
if "%~1"=="/?" goto usage

set "page=1"
if "%~1"=="terminal" set "page="
if "%~1"=="terminal" shift
set "model=%~1"
if not "%~2"=="" goto unknown
if defined model if not exist "%model%" goto unknown
if defined model goto setup
for %%d in (checkpoints_chat checkpoints checkpoints\sample) do call :look %%d
if not defined model goto no_model
:setup
rem in mymodel\" the backslash would keep the quote from ending the word
if "%model:~-1%"=="\" set "model=%model%."
call ".\setup_env.bat"
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end
if not defined page goto terminal
"%py%" -c "import starlette, uvicorn" >nul 2>nul
set "rc=%errorlevel%"
if "%rc%"=="0" goto page
echo chat: installing what the page needs, once
"%py%" -m pip install -qq --disable-pip-version-check --requirement requirements-serve.txt
set "rc=%errorlevel%"
if "%rc%"=="0" goto page
echo notice: the packages of the page could not be installed, the reason is above: the chat is in this window
goto terminal
:page
echo chat: the model in "%model%"; close this window to end
"%py%" serve.py --checkpoint "%model%" --port 0 --open
set "rc=%errorlevel%"
goto end
:terminal
echo chat: the model in "%model%"
"%py%" generate.py --checkpoint "%model%" --interactive
set "rc=%errorlevel%"
goto end

:no_model
>&2 echo error: there is no trained model in checkpoints_chat, checkpoints or checkpoints\sample: start run_training.bat first, or name its folder: chat.bat FOLDER
set "rc=2"
goto end
:unknown
>&2 echo error: "%model%" is not the folder of a trained model, or more arguments follow it; --help explains the arguments of chat.bat
set "rc=2"
goto end
:incomplete
>&2 echo error: other files of the project are not in this folder: if it is a zip file, extract all of it first; if it is a network folder \\..., copy it to a drive such as C:; then run it from there
goto end
:usage
echo usage: chat.bat [terminal] [FOLDER]
echo   nothing     a page in the browser
echo   terminal    in this window; a base model continues what you write
echo FOLDER holds a trained model; default: the first of checkpoints_chat, checkpoints and checkpoints\sample that does.
echo Ctrl-C ends it. NO_PAUSE=1: do not wait for a key at the end.
:end
if defined wait pause
exit /b %rc%

:look
rem a folder: sets model to it when it is the first that holds one
if defined model goto :eof
if exist "%~1\model.pt" set "model=%~1"
if exist "%~1\checkpoint_step*.pt" set "model=%~1"
goto :eof
