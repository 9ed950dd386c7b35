// @actions/exec, @actions/io, @actions/glob and @actions/tool-cache, without any network.
import { getInput } from '@actions/core'
import { exec, getExecOutput } from '@actions/exec'
import * as glob from '@actions/glob'
import * as io from '@actions/io'
import * as tc from '@actions/tool-cache'
import * as fs from 'node:fs'
import * as http from 'node:http'
import * as path from 'node:path'
import { checks } from '../check.mjs'

const { RUNNER_TEMP: temp, RUNNER_TOOL_CACHE: toolCache, GITHUB_WORKSPACE: workspace } = process.env
const read = file => fs.readFileSync(file, 'utf8')

await checks('exec', async (same, refused) => {
  same('code', await exec('sh', ['-c', 'exit 3'], { ignoreReturnCode: true }), 3)
  await refused('failure', () => exec('sh -c "exit 4"'), 'failed with exit code 4')
  await refused('no tool', () => exec('no-such-tool'), 'Unable to locate executable file: no-such-tool')
  const seen = { out: [], err: [], bytes: 0 }
  await exec('sh', ['-c', 'echo one; echo two >&2; echo three'], {
    silent: true,
    env: { PATH: process.env.PATH },
    listeners: {
      stdline: line => seen.out.push(line),
      errline: line => seen.err.push(line),
      stdout: bytes => { seen.bytes += bytes.length },
    },
  })
  same('listeners', seen, { out: ['one', 'three'], err: ['two'], bytes: 10 })
  const input = Buffer.from('given\n'.repeat(50000))
  const cat = await getExecOutput('cat', [], { input, silent: true })
  same('stdin', [cat.exitCode, cat.stdout === input.toString()], [0, true])
  const said = await getExecOutput('printf', ['%s|', 'a b', '"'], { silent: true, cwd: '/' })
  same('output', said, { exitCode: 0, stdout: 'a b|"|', stderr: '' })
})

await checks('io', async (same, refused) => {
  process.chdir(temp)
  await io.mkdirP('from/deep/er')
  fs.writeFileSync('from/deep/er/file', 'content')
  fs.symlinkSync('deep/er/file', 'from/link')
  await io.cp('from', 'to', { recursive: true })
  same('cp', [read('to/deep/er/file'), read('to/link')], ['content', 'content'])
  await refused('cp of a folder', () => io.cp('from', 'no'), 'tried to copy without recursive flag')
  fs.writeFileSync('other', 'other')
  await io.cp('other', 'from/deep/er/file', { force: false })
  same('cp without force', read('from/deep/er/file'), 'content')
  await io.mv('to', 'moved')
  same('mv', [fs.existsSync('to'), read('moved/deep/er/file')], [false, 'content'])
  await io.rmRF('moved')
  await io.rmRF('moved')
  same('rmRF', fs.existsSync('moved'), false)
  same('which', fs.realpathSync(await io.which('cat', true)), fs.realpathSync('/bin/cat'))
  same('which of nothing', await io.which('no-such-tool'), '')
  await refused('which must', () => io.which('no-such-tool', true), 'Unable to locate executable file')
  same('findInPath', (await io.findInPath('made-tool')), [`${temp}/tools/made-tool`])
})

await checks('glob', async same => {
  process.chdir(workspace)
  const found = async (...lines) => {
    const globber = await glob.create(lines.join('\n'))
    return (await globber.glob()).map(file => path.relative(workspace, file)).sort()
  }
  same('files', await found('data/**/*.txt'), ['data/a.txt', 'data/sub/b.txt', 'data/sub/skip/c.txt'])
  same('exclude', await found('data/**/*.txt', '!data/sub/skip/**'), ['data/a.txt', 'data/sub/b.txt'])
  same('classes', await found('data/[ab].t?t', '# a comment', 'data/none'), ['data/a.txt'])
  same('folders', await found('data/sub/**'), [
    'data/sub', 'data/sub/b.txt', 'data/sub/skip', 'data/sub/skip/c.txt',
  ])
  const globber = await glob.create('data/**/*.txt')
  same('search paths', globber.getSearchPaths(), [path.join(workspace, 'data')])
  same('hashFiles as the runner', await glob.hashFiles('data/**/*.txt'), getInput('hash'))
  same('hashFiles of nothing', await glob.hashFiles('data/*.none'), '')
})

await checks('tool-cache', async (same, refused) => {
  process.chdir(temp)
  await io.mkdirP('tool/bin')
  fs.writeFileSync('tool/bin/made', '#!/bin/sh\necho made 1\n', { mode: 0o755 })
  await exec('tar', ['-czf', 'tool.tgz', '-C', 'tool', '.'], { silent: true })
  await exec('zip', ['-qr', 'tool.zip', 'tool'], { silent: true })
  const tar = await tc.extractTar('tool.tgz', 'from-tar')
  same('extractTar', read(`${tar}/bin/made`), read('tool/bin/made'))
  const zip = await tc.extractZip(path.resolve('tool.zip'))
  same('extractZip', [path.dirname(zip), read(`${zip}/tool/bin/made`)], [temp, read('tool/bin/made')])

  same('nothing yet', tc.find('made', '1.x'), '')
  const kept = await tc.cacheDir(tar, 'made', '1.2.3')
  same('cacheDir', kept, path.join(toolCache, 'made/1.2.3/x64'))
  await tc.cacheFile('tool/bin/made', 'made', 'made', '1.10.0')
  same('find', tc.find('made', '1.x'), path.join(toolCache, 'made/1.10.0/x64'))
  same('find exactly', tc.find('made', '1.2.3'), kept)
  same('not another', tc.find('made', '2.x'), '')
  same('findAllVersions', tc.findAllVersions('made').sort(), ['1.10.0', '1.2.3'])
  const ran = await getExecOutput(`${tc.find('made', '~1.2')}/bin/made`, [], { silent: true })
  same('run', ran.stdout, 'made 1\n')

  const server = http.createServer((request, response) => {
    response.statusCode = request.url === '/tool' ? 200 : 404
    response.end('bytes of a tool')
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const base = `http://127.0.0.1:${server.address().port}`
  const file = await tc.downloadTool(`${base}/tool`)
  same('downloadTool', [path.dirname(file), read(file)], [temp, 'bytes of a tool'])
  await refused('no download', () => tc.downloadTool(`${base}/none`), 'Unexpected HTTP response: 404')
  server.closeAllConnections()
  server.close()
})
