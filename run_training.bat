@echo off
rem From nothing to Hindi text: environment, data, training, samples. Existing outputs are kept, and a stopped run is resumed.
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul 2>nul
cd /d "%~dp0"
set "PYTHONUTF8=1"
rem as in setup_env.bat
set "PYTHONHOME="
set "PYTHONPATH="
set "py=%~dp0venv\Scripts\python.exe"
rem setup_env.bat must not wait for a key of its own
set "wait=1"
if "%NO_PAUSE%"=="1" set "wait="
set "NO_PAUSE=1"
set "rc=6"
if not exist "setup_env.bat" goto incomplete
if not exist "train.py" goto incomplete
set "rc=0"
if "%~1"=="--help" goto usage
if "%~1"=="-h" goto usage
if "%~1"=="/?" goto usage

set "data=data"
set "checkpoints=checkpoints"
set "raw=data\raw"
set "download="
set "preprocess="
set "train="
if "%~1"=="sample" goto sample
set "word=%~1"
if not defined word if [%1]==[] goto words
if not defined word goto unknown
if not "%word:~0,1%"=="-" goto unknown
goto words
:sample
shift
set "data=data\sample"
set "checkpoints=checkpoints\sample"
set "raw=data\sample\raw"
set "download=--source sample --output_dir data\sample\raw"
set "preprocess=--input data\sample\raw\hindi_corpus.txt --output_dir data\sample --train_tokenizer 4096"
set "train=--config tiny --data_dir data\sample --checkpoint_dir checkpoints\sample"

:words
rem the further arguments, each with its quotes
set "words="
set "previous="
set "own_data="
set "no_samples="
:next_word
if "%~1"=="" if [%1]==[] goto setup
set before=%words%
set words=%words% %1
set word=%1
set "word=%word:"=%"
if not defined word goto shifted
rem in "my data\" the backslash would keep the quote from ending the word
if "%word:~-1%"=="\" set words=%before% "%word%."
if "%word:~-1%"=="\" set "word=%word%."
if "%word%"=="--dry_run" set "no_samples=1"
if "%word%"=="--help" set "no_samples=1"
if "%word%"=="-h" set "no_samples=1"
rem train.py says what is missing in it
if "%word%"=="--data_dir" set "own_data=1"
if "%word:~0,11%"=="--data_dir=" set "own_data=1"
if "%previous%"=="--checkpoint_dir" set "checkpoints=%word%"
if "%word:~0,17%"=="--checkpoint_dir=" set "checkpoints=%word:~17%"
:shifted
set "previous=%word%"
shift
goto next_word

:setup
call ".\setup_env.bat"
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end
if defined no_samples goto train
if defined own_data goto train
rem preprocess_meta.txt is written last: without it, the data is not finished
if exist "%data%\preprocess_meta.txt" goto train
rem a wrong flag must not be found only after the download and the tokenizing
"%py%" train.py %train%%words% --dry_run >nul
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end
rem the corpus gets this name when it is complete
if exist "%raw%\hindi_corpus.txt" goto preprocess
echo training: downloading or writing the text to %raw%
"%py%" data\download.py %download%
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end
:preprocess
echo training: tokenizing the text into %data%
"%py%" data\preprocess.py %preprocess%
set "rc=%errorlevel%"
if not "%rc%"=="0" goto end

:train
"%py%" train.py %train% --resume auto%words%
set "rc=%errorlevel%"
rem -1073741510 is Ctrl-C before Python could answer it
if "%rc%"=="-1073741510" set "rc=130"
if "%rc%"=="130" echo training: stopped; run this again to continue
if not "%rc%"=="0" goto end
if defined no_samples goto end
echo training: samples of "%checkpoints%"
"%py%" generate.py --checkpoint "%checkpoints%"
set "rc=%errorlevel%"
goto end

:unknown
>&2 echo error: unknown argument "%word%": write sample or flags of train.py; --help explains them
set "rc=2"
goto end
:incomplete
>&2 echo error: other files of the project are not in this folder: if it is a zip file, extract all of it first; if it is a network folder \\..., copy it to a drive such as C:; then run it from there
goto end
:usage
echo usage: run_training.bat [sample] [flags of train.py ...]
echo   nothing     Sangraha from the Hugging Face hub, the 25m model
echo   sample      a small corpus of generated stories, the tiny model: minutes, no hub
echo Flags are passed to train.py, such as --total_tokens 100000000, --checkpoint_dir DIR, --dry_run; paths are relative to the folder of this file.
echo With --data_dir DIR or --data_dir "A=0.7" "B=0.3", in quotes, no data is prepared: each folder must hold the output of data\preprocess.py.
echo Start it again to resume a stopped run. NO_PAUSE=1: do not wait for a key at the end.
echo Exit codes: those of setup_env.bat, then of the script that failed; 130 after Ctrl-C.
:end
if defined wait pause
exit /b %rc%
